//! `pglb doctor` finds nothing wrong with a healthy gateway, names what is wrong with another one, and changes
//! neither.

use std::{fs, net::TcpStream, time::Duration};

use anyhow::{Context as _, Result, ensure};
use pglb_tests::{
    clock, command,
    gateway::{self, Config, Gateway},
    postgres::Options,
    site::{PATIENCE, RO_ADDRESS, RW_ADDRESS, Site},
    topology::{Network, VIP},
};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Diagnosis {
    level: String,
    findings: Vec<Finding>,
}

#[derive(Debug, Deserialize)]
struct Finding {
    subject: String,
    level: String,
    what: String,
    remedy: Option<String>,
}

impl Diagnosis {
    /// What the doctor says, whose exit code must be that of its words.
    fn of(gateway: &Gateway) -> Result<Self> {
        let output = gateway.observe(&["doctor", "--json"])?;
        let text = command::text_of(&output.stdout);
        let errors = command::text_of(&output.stderr);
        let diagnosis: Self = serde_json::from_str(&text).with_context(|| errors)?;
        let code = match diagnosis.level.as_str() {
            "ok" | "advice" => 0,
            "warning" => 1,
            _ => 2,
        };
        ensure!(output.status.code() == Some(code), "{output:?}");
        Ok(diagnosis)
    }

    /// The findings of this level about this subject.
    fn about(&self, level: &str, subject: &str) -> Vec<&Finding> {
        let is_it = |it: &&Finding| it.level == level && it.subject == subject;
        self.findings.iter().filter(is_it).collect()
    }

    /// The only finding of this level, which must be about this subject.
    #[track_caller]
    fn only(&self, level: &str, subject: &str) -> (&str, &str) {
        let of_level = |it: &&Finding| it.level == level;
        let found: Vec<_> = self.findings.iter().filter(of_level).collect();
        let [finding] = found[..] else {
            panic!("not one {level}: {self:#?}");
        };
        assert_eq!(finding.subject, subject, "{self:#?}");
        (
            &finding.what,
            finding.remedy.as_deref().expect("something to do"),
        )
    }

    #[track_caller]
    fn assert_healthy(&self) {
        let is_well = matches!(self.level.as_str(), "ok" | "advice");
        assert!(is_well, "{self:#?}");
    }
}

#[test]
fn a_healthy_gateway_has_no_problem() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    drop(site.open(RW_ADDRESS, 3)?);
    drop(site.open(RO_ADDRESS, 4)?);
    let diagnosis = Diagnosis::of(&site.gateway)?;
    diagnosis.assert_healthy();
    for host in ["db1", "db2", "db3"] {
        let said = diagnosis.about("ok", &format!("backend shop/{host}"));
        let returns = |it: &&Finding| it.what.contains("replies come back through this gateway");
        assert!(said.iter().any(returns), "{host}: {diagnosis:#?}");
        let said = diagnosis.about("ok", &format!("interface {host}"));
        let is_native = |it: &&Finding| it.what.contains("attached in the driver, veth");
        assert!(said.iter().any(is_native), "{host}: {diagnosis:#?}");
    }
    let vip = diagnosis.about("ok", &format!("vip {VIP}"));
    assert!(vip[0].what.contains("no other host on client"), "{vip:?}");
    assert_eq!(diagnosis.about("ok", "XDP program").len(), 1);

    let table = command::text_of(&site.gateway.observe(&["doctor"])?.stdout);
    assert!(table.contains("no problem was found"), "{table}");
    Ok(())
}

#[test]
fn replies_that_go_another_way_are_found_with_both_remedies() -> Result<()> {
    let site = Site::start(Options::default(), &Config::demo())?;
    // The backend has a way to its clients, and it is not this gateway.
    let db1 = site.network.hosts()[0].namespace();
    db1.run("ip route add blackhole 10.71.0.0/24")?;
    let connect = || TcpStream::connect_timeout(&RW_ADDRESS, Duration::from_millis(700));
    let refused = site.network.client().enter(connect)?;
    refused.expect_err("nobody can answer");

    let diagnosis = Diagnosis::of(&site.gateway)?;
    let (what, remedy) = diagnosis.only("problem", "backend shop/db1");
    assert!(what.contains("such as that of 10.71.0.10:"), "{what}");
    assert!(what.contains("do not come back through this"), "{what}");
    assert!(
        remedy.contains("default route of 10.72.0.11"),
        "the first remedy: {remedy}"
    );
    assert!(
        remedy.contains("forwarding = \"full-nat\" for service shop-rw"),
        "the second remedy: {remedy}"
    );

    db1.run("ip route del blackhole 10.71.0.0/24")?;
    drop(site.open(RW_ADDRESS, 1)?);
    Diagnosis::of(&site.gateway)?.assert_healthy();
    Ok(())
}

#[test]
fn settings_that_something_else_has_changed_are_found() -> Result<()> {
    let network = Network::build(3)?;
    let gateway = Gateway::start(&network, &Config::demo())?;
    await_vip(&network)?;
    let run = |line: &str| network.gateway().run(line);
    let is_named = |diagnosis: &Diagnosis, interface: &str, setting: &str| {
        let said = diagnosis.about("problem", &format!("interface {interface}"));
        let command = format!("sysctl -w net.ipv4.conf.{interface}.{setting}");
        let names = |it: &&Finding| it.remedy.as_ref().is_some_and(|it| it.contains(&command));
        said.iter().any(names)
    };

    assert!(!is_named(&Diagnosis::of(&gateway)?, "client", "rp_filter"));
    run("sysctl -qw net.ipv4.conf.client.rp_filter=1")?;
    let diagnosis = Diagnosis::of(&gateway)?;
    assert!(
        is_named(&diagnosis, "client", "rp_filter=2"),
        "{diagnosis:#?}"
    );
    assert!(
        !is_named(&diagnosis, "db1", "rp_filter=2"),
        "{diagnosis:#?}"
    );
    run("sysctl -qw net.ipv4.conf.client.rp_filter=2")?;

    run("sysctl -qw net.ipv4.ip_forward=0")?;
    let diagnosis = Diagnosis::of(&gateway)?;
    for interface in ["client", "db1", "db2", "db3"] {
        let is_it = is_named(&diagnosis, interface, "forwarding=1");
        assert!(is_it, "{interface}: {diagnosis:#?}");
    }
    Ok(())
}

#[test]
fn a_vip_that_another_host_has_is_found() -> Result<()> {
    let network = Network::build(3)?;
    let gateway = Gateway::start(&network, &Config::demo())?;
    await_vip(&network)?;
    let client = network.client();
    client.run(&format!("ip address add {VIP}/32 dev eth0"))?;
    let link = client.run("ip -o link show dev eth0")?;

    let diagnosis = Diagnosis::of(&gateway)?;
    let [found] = diagnosis.about("problem", &format!("vip {VIP}"))[..] else {
        panic!("not one: {diagnosis:#?}");
    };
    let named = found.what.split_whitespace().find(|it| it.contains(':'));
    assert!(
        named.is_some_and(|named| link.contains(named)),
        "{found:?} {link}"
    );
    Ok(())
}

#[test]
fn what_is_wrong_with_interfaces_and_backends_is_found() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    let hosts = site.network.hosts();
    // Without NAPI at the far end, the near end takes no packets from XDP.
    hosts[1].namespace().run("ethtool -K eth0 gro off")?;
    let diagnosis = Diagnosis::of(&site.gateway)?;
    let (what, remedy) = diagnosis.only("problem", "interface db2");
    assert!(what.contains("cannot be redirected"), "{what}");
    assert!(remedy.contains("gro on"), "{remedy}");
    hosts[1].namespace().run("ethtool -K eth0 gro on")?;

    site.network.gateway().run("ip link set db3 mtu 1400")?;
    let diagnosis = Diagnosis::of(&site.gateway)?;
    let [mtu] = diagnosis.about("advice", "MTU")[..] else {
        panic!("not one: {diagnosis:#?}");
    };
    assert!(mtu.what.contains("db3 has an MTU of 1400"), "{mtu:?}");
    site.network.gateway().run("ip link set db3 mtu 1500")?;

    site.cluster.server_mut(2).kill()?;
    let diagnosis = Diagnosis::of(&site.gateway)?;
    let (what, _) = diagnosis.only("warning", "backend shop/db3");
    assert!(what.contains("nobody listens on 10.72.0.13:5432"), "{what}");

    hosts[2].vanish()?;
    let diagnosis = Diagnosis::of(&site.gateway)?;
    let (what, _) = diagnosis.only("problem", "backend shop/db3");
    assert!(what.contains("does not answer"), "{what}");
    hosts[2].reappear()?;

    let forgotten = Config::demo().replace("\"db2\", \"db3\"]", "\"db2\"]")?;
    site.gateway.write_config(&forgotten)?;
    let diagnosis = Diagnosis::of(&site.gateway)?;
    let (_, remedy) = diagnosis.only("problem", "backend shop/db3");
    assert!(
        remedy.contains("add \"db3\" to gateway.interfaces"),
        "{remedy}"
    );
    Ok(())
}

#[test]
fn it_changes_nothing_and_tells_what_run_will_change() -> Result<()> {
    let network = Network::build(3)?;
    network.gateway().run("sysctl -qw net.ipv4.ip_forward=0")?;
    let state = || -> Result<String> {
        let parts = [
            "ip -4 -d address show",
            "ip -4 route show table all",
            "sysctl -a --pattern ^net\\.(ipv4|ipv6)\\.conf",
        ];
        let parts = parts.map(|line| network.gateway().run(line));
        // Other tests on this machine mount namespaces meanwhile.
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let mounts: Vec<&str> = mounts.lines().filter(|it| it.contains("bpf")).collect();
        let all: Result<Vec<String>> = parts.into_iter().collect();
        // IPv6 addresses settle by themselves meanwhile.
        Ok(all?.join("\n") + &mounts.join("\n"))
    };
    let before = state()?;
    let file = network.directory().join("pglb.toml");
    let pins = format!("pin_dir = \"{}/pins\"", network.directory().display());
    let text = Config::demo().replace("[gateway]", &format!("[gateway]\n{pins}"))?;
    fs::write(&file, text.text())?;
    let mut doctor = network.gateway().command(gateway::find_binary()?);
    doctor.args(["doctor", "--json", "-c"]).arg(&file);
    let output = command::observe(&mut doctor)?;
    let diagnosis: Diagnosis = serde_json::from_slice(&output.stdout)?;
    assert_eq!(state()?, before);
    assert!(!network.directory().join("pins").exists());

    let said = diagnosis.about("ok", "interface client");
    let announces = |it: &&Finding| {
        it.what
            .contains("`pglb run` will set net.ipv4.conf.client.forwarding=1")
    };
    assert!(said.iter().any(announces), "{diagnosis:#?}");
    // No server runs here.
    for host in ["db1", "db2", "db3"] {
        let said = diagnosis.about("warning", &format!("backend shop/{host}"));
        assert_eq!(said.len(), 1, "{diagnosis:#?}");
    }
    assert_eq!(diagnosis.level, "warning", "{diagnosis:#?}");
    Ok(())
}

#[test]
fn a_user_without_privileges_is_told_what_was_not_seen() -> Result<()> {
    let network = Network::build(3)?;
    let gateway = Gateway::start(&network, &Config::demo())?;
    await_vip(&network)?;
    // Where cargo builds, that user may not look.
    let binary = network.directory().join("pglb");
    fs::copy(gateway::find_binary()?, &binary)?;
    let mut doctor = network.gateway().command("setpriv");
    doctor.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    doctor.arg(&binary).args(["doctor", "--json", "-c"]);
    doctor.arg(gateway.config_file());
    let output = command::observe(&mut doctor)?;
    let diagnosis: Diagnosis =
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))?;
    for (subject, unseen) in [
        ("privileges", "CAP_BPF"),
        ("XDP program", "not tried"),
        (&format!("vip {VIP}"), "not asked"),
        ("backend shop/db1", "not seen"),
    ] {
        let [found] = diagnosis.about("advice", subject)[..] else {
            panic!("not one about {subject}: {diagnosis:#?}");
        };
        assert!(found.what.contains(unseen), "{found:?}");
        assert_eq!(found.remedy.as_deref(), Some("run `pglb doctor` as root"));
    }
    // The servers do not run; nothing else is wrong, and nothing unseen is taken for wrong.
    assert_eq!(diagnosis.level, "warning", "{diagnosis:#?}");
    Ok(())
}

/// Waits until pglb has added the VIP to the gateway.
fn await_vip(network: &Network) -> Result<()> {
    let has_vip = || {
        let addresses = network.gateway().run("ip -o address show");
        addresses.is_ok_and(|addresses| addresses.contains(&format!("{VIP}/")))
    };
    clock::wait_for("the VIP", PATIENCE, has_vip).map(drop)
}
