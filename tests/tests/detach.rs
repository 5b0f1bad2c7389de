//! `pglb detach` leaves nothing on the host, and takes nothing that was there before.

use std::fs;

use anyhow::Result;
use pglb_tests::{
    gateway::{Config, Gateway},
    postgres::Options,
    site::{RO_ADDRESS, Site},
    topology::{Network, VIP},
};

#[test]
fn no_program_no_pin_and_no_vip_are_left() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    let gateway = site.network.gateway();
    let attached = gateway.run("ip -o link show")?;
    assert!(
        attached.matches("xdp").count() >= 4,
        "four interfaces: {attached}"
    );
    assert!(
        gateway
            .run("ip -o address show")?
            .contains(&format!("{VIP}/"))
    );
    assert!(fs::read_dir(site.gateway.pins())?.next().is_some());

    site.gateway.terminate()?;
    site.gateway.pglb(&["detach"])?;
    let links = site.network.gateway().run("ip -d -o link show")?;
    assert!(!links.contains("xdp"), "{links}");
    let addresses = site.network.gateway().run("ip -o address show")?;
    assert!(!addresses.contains(&format!("{VIP}/")), "{addresses}");
    assert!(
        !site.gateway.pins().exists(),
        "{} is still there",
        site.gateway.pins().display()
    );

    // A second time there is nothing to do, and that is no error.
    site.gateway.pglb(&["detach"])?;
    Ok(())
}

#[test]
fn a_vip_that_pglb_did_not_add_stays() -> Result<()> {
    let network = Network::build(3)?;
    network
        .gateway()
        .run(&format!("ip address add {VIP}/24 dev client"))?;
    let mut gateway = Gateway::start(&network, &Config::demo())?;
    gateway.terminate()?;
    gateway.pglb(&["detach"])?;
    let addresses = network.gateway().run("ip -o address show")?;
    assert!(addresses.contains(&format!("{VIP}/24")), "{addresses}");
    Ok(())
}

#[test]
fn it_can_be_attached_again() -> Result<()> {
    let mut site = Site::start(Options::default(), &Config::demo())?;
    site.gateway.terminate()?;
    site.gateway.pglb(&["detach"])?;
    site.gateway.launch()?;
    site.await_all_up()?;
    assert_eq!(site.open(RO_ADDRESS, 2)?.len(), 2);
    Ok(())
}
