//! The config of a proxy in front of a [`Cluster`].

use std::fmt::Write as _;

use super::Cluster;

/// A config file's text: the cluster's nodes, its users, and ports that the system chooses.
/// `sections` are further lines, such as `[lag]\nwhen_none = "error"`.
pub fn proxy_config(cluster: &Cluster, sections: &str) -> String {
    sharded_config(&[("main", cluster)], sections)
}

/// The same of several shards, by name. Their clusters must have been started with the same roles.
pub fn sharded_config(shards: &[(&str, &Cluster)], sections: &str) -> String {
    let mut text = String::from("[listen]\naddress = \"127.0.0.1:0\"\n\n[http]\naddress = \"127.0.0.1:0\"\n");
    if let Some((_, first)) = shards.first() {
        let options = first.options();
        for user in [&options.app, &options.superuser] {
            // Writing to a string does not fail.
            let _ = write!(text, "\n[[auth.users]]\nname = {:?}\npassword = {:?}\n", user.user, user.password);
        }
        let (admin, app) = (&options.superuser.user, &options.app.user);
        let _ = write!(text, "\n[admin]\nadmins = [{admin:?}]\nstats = [{app:?}]\n");
    }
    for (name, cluster) in shards {
        let nodes: Vec<String> = cluster.servers().iter().map(|server| format!("{:?}", server.address())).collect();
        let monitor = &cluster.options().monitor;
        let (nodes, user, password) = (nodes.join(", "), &monitor.user, &monitor.password);
        let _ = write!(
            text,
            "\n[[shards]]\nname = {name:?}\nnodes = [{nodes}]\nuser = {user:?}\npassword = {password:?}\n"
        );
    }
    if !sections.is_empty() {
        let _ = write!(text, "\n{sections}\n");
    }
    text
}
