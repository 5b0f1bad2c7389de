//! The configuration is read again at SIGHUP: whole, or not at all; and the host's settings are put back.

use std::time::Duration;

use anyhow::Result;
use pglb_tests::{
    clock,
    gateway::Config,
    postgres::Options,
    site::{PATIENCE, RO, RO_ADDRESS, Site},
};

#[test]
fn a_good_file_is_taken_whole_and_a_bad_one_not_at_all() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    let mut sessions = site.open(RO_ADDRESS, 10)?;
    let without_db3 =
        Config::demo().replace("  { name = \"db3\", address = \"10.72.0.13:5432\" },\n", "")?;

    // A mistake anywhere in the file: nothing of it counts, and the log says why.
    site.gateway.reload(
        &without_db3
            .clone()
            .replace("rise          = 2", "rise          = 0")?,
    )?;
    clock::wait_for("the refusal", PATIENCE, || {
        site.gateway.log().contains("stays as it was")
    })?;
    assert!(
        site.gateway.log().contains("rise"),
        "{}",
        site.gateway.log()
    );
    site.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    for session in &mut sessions {
        session.ask_backend()?;
    }

    // A server less: its connections are reset, those of the others go on.
    site.gateway.reload(&without_db3)?;
    site.gateway.await_eligible(RO, &["db2"], PATIENCE)?;
    let (mut kept, mut told) = (0, 0);
    for mut session in sessions {
        match session.await_end(Duration::from_millis(200)) {
            Ok(_) => told += 1,
            Err(_) => kept += 1,
        }
    }
    assert_eq!((kept, told), (5, 5));

    // And back again.
    site.gateway.reload(&Config::demo())?;
    site.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    Ok(())
}

#[test]
fn a_strict_reverse_path_filter_is_loosened_and_put_back() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    site.gateway.terminate()?;
    site.gateway.pglb(&["detach"])?;
    let host = site.network.gateway();
    for interface in ["all", "client", "db1", "db2", "db3"] {
        host.run(&format!("sysctl -qw net.ipv4.conf.{interface}.rp_filter=1"))?;
    }
    site.gateway.launch()?;
    site.gateway.await_eligible(RO, &["db2", "db3"], PATIENCE)?;
    // The neighbours are forgotten, so that the kernel has to send the first replies itself.
    host.run("ip neigh flush dev client")?;
    assert_eq!(site.open(RO_ADDRESS, 4)?.len(), 4);
    site.gateway.terminate()?;
    site.gateway.pglb(&["detach"])?;
    let after = host.run("sysctl -n net.ipv4.conf.client.rp_filter")?;
    assert_eq!(after.trim(), "1");
    Ok(())
}
