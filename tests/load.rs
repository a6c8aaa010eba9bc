//! pgbench's own scripts, in all its protocol modes: nothing fails, and reads run on replicas.

mod support;

use pgsluice::demo::ClusterOptions;
use support::pgbench::MODES;
use support::server_log::{count, logging};
use support::{Stand, pgbench};

const CLIENTS: &str = "16";

/// What the select-only script and the read of the TPC-B-like one have in common.
const READ: &str = "SELECT abalance FROM pgbench_accounts";

#[tokio::test(flavor = "multi_thread")]
async fn of_a_select_only_load_99_percent_run_on_replicas() {
    let stand = Stand::start_with(logging(ClusterOptions::with_replicas(2)), "").await;
    pgbench::run(&stand.url(), &["-i", "-q", "-s", "2"]).await;
    let (primary, replicas) = (stand.cluster.primary(), stand.cluster.replicas());
    for mode in MODES {
        stand.cluster.wait_replicated().await.unwrap();
        for replica in replicas {
            stand.proxy.wait_admitted(&replica.address()).await;
        }
        let on_replicas = || replicas.iter().map(|replica| count(replica, READ)).collect::<Vec<_>>();
        let (primary_before, before) = (count(primary, READ), on_replicas());
        let run = ["-S", "-n", "-M", mode, "-c", CLIENTS, "-j", "2", "-t", "500"];
        assert_eq!(pgbench::run(&stand.url(), &run).await, 16 * 500, "{mode}");

        let there: Vec<usize> = on_replicas().iter().zip(&before).map(|(after, before)| after - before).collect();
        let here = count(primary, READ) - primary_before;
        let sum: usize = there.iter().sum();
        assert!(sum + here >= 16 * 500, "{mode}: {there:?} and {here} on the primary");
        assert!(sum * 100 >= 99 * (sum + here), "{mode}: {there:?}, but {here} on the primary");
        assert!(there.iter().all(|one| one * 4 >= sum), "{mode}: no balance in {there:?}");
    }
    stand.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tpc_b_like_script_fails_nowhere_and_counts_right() {
    let stand = Stand::start(2, "").await;
    pgbench::run(&stand.url(), &["-i", "-q", "-s", "2"]).await;
    let mut in_accounts = 0;
    for mode in MODES {
        // It vacuums and empties pgbench_history first.
        let run = ["-b", "tpcb-like", "-M", mode, "-c", CLIENTS, "-j", "2", "-t", "50"];
        assert_eq!(pgbench::run(&stand.url(), &run).await, 16 * 50, "{mode}");
        let sums = "SELECT count(*), sum(delta), (SELECT sum(abalance) FROM pgbench_accounts), \
                    (SELECT sum(bbalance) FROM pgbench_branches), (SELECT sum(tbalance) FROM pgbench_tellers) \
                    FROM pgbench_history";
        let rows = stand.cluster.primary().sql_in("app", sums).await.unwrap();
        let sums: Vec<i64> = rows[0].iter().map(|value| value.as_ref().unwrap().parse().unwrap()).collect();
        in_accounts += sums[1];
        assert_eq!(sums, [16 * 50, sums[1], in_accounts, in_accounts, in_accounts], "{mode}");
    }
    stand.stop().await;
}
