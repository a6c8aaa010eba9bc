//! The config of a proxy in front of a [`Cluster`].

use std::fmt::Write as _;

use super::Cluster;

/// A config file's text: the cluster's nodes, its users, and ports that the system chooses.
/// `sections` are further lines, such as `[lag]\nwhen_none = "error"`.
pub fn proxy_config(cluster: &Cluster, sections: &str) -> String {
    let options = cluster.options();
    let nodes: Vec<String> = cluster.servers().iter().map(|server| format!("{:?}", server.address())).collect();
    let mut text = String::from("[listen]\naddress = \"127.0.0.1:0\"\n\n[http]\naddress = \"127.0.0.1:0\"\n");
    for user in [&options.app, &options.superuser] {
        // Writing to a string does not fail.
        let _ = write!(text, "\n[[auth.users]]\nname = {:?}\npassword = {:?}\n", user.user, user.password);
    }
    let _ = write!(text, "\n[admin]\nadmins = [{:?}]\nstats = [{:?}]\n", options.superuser.user, options.app.user);
    let monitor = &options.monitor;
    let _ = write!(
        text,
        "\n[[shards]]\nname = \"main\"\nnodes = [{}]\nuser = {:?}\npassword = {:?}\n",
        nodes.join(", "),
        monitor.user,
        monitor.password
    );
    if !sections.is_empty() {
        let _ = write!(text, "\n{sections}\n");
    }
    text
}
