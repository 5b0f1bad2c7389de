//! The tables of flows, which the controller reads as they lie and has the kernel change.

use std::cell::OnceCell;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use aya::Pod;
use aya::maps::{Array, Map, MapData};
use aya::programs::{TestRun as _, TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::amend::{Amendment, Change};
use lb_common::family::{Address as _, ip};
use lb_common::flow::{Direction, Flow, FlowKey, Tick};
use lb_common::flow_table::{Bucket, Entry, Home, Keyed, PAGE_WORDS, TagPage, Tags, WAYS};
use lb_common::member::Slot;

use super::{ANY, Tables};
use crate::engine::kernel::Flows;

/// One family's table of established, or of half-open and ended flows.
pub(super) struct FlowTable<A>
where
    Entry<A>: Pod,
{
    tags: Array<MapData, TagPage>,
    buckets: Array<MapData, Bucket<A>>,
}

impl<A: Keyed> FlowTable<A>
where
    Entry<A>: Pod,
{
    pub(super) fn new(tags: Map, buckets: Map) -> Result<Self> {
        Ok(Self {
            tags: tags.try_into()?,
            buckets: buckets.try_into()?,
        })
    }

    /// How many buckets it has.
    pub(super) fn size(&self) -> u32 {
        self.buckets.len()
    }

    /// Reads every flow. One that comes or goes meanwhile may be missed; what is half of one flow
    /// and half of the next in its place does not lie where its key belongs, and is left out.
    pub(super) fn collect(&self, seed: u32, flows: &mut Flows) -> Result<()> {
        let either = |address: A| ip(address.widen());
        for page in 0..self.tags.len() {
            let first = page * PAGE_WORDS;
            let words = self.tags.get(&page, ANY)?;
            for (index, tags) in (first..self.size()).zip(words.map(Tags)) {
                let is_used = |way: &u32| tags.of(*way) > Tags::CLAIMED;
                if !(0..WAYS).any(|way| is_used(&way)) {
                    continue;
                }
                let bucket = self.buckets.get(&index, ANY)?;
                for (_, entry) in (0..WAYS).zip(bucket).filter(|(way, _)| is_used(way)) {
                    let words = A::words(&entry.key);
                    let home = Home::of(words.as_ref(), seed.into(), self.size());
                    if home.buckets.contains(&index) {
                        flows.insert(entry.key.map(either), entry.flow.map(either));
                    }
                }
            }
        }
        Ok(())
    }
}

impl Tables {
    /// Puts a flow into the established table, in the place of one with its key; tells whether
    /// there was room. This and the next four are for one thread at a time.
    pub fn put_established(&mut self, key: FlowKey<IpAddr>, flow: Flow<IpAddr>) -> Result<bool> {
        self.amender.amend(Change::PutEstablished, key, flow)
    }

    /// Puts a flow into the transient table, in the place of one with its key.
    pub fn put_transient(&mut self, key: FlowKey<IpAddr>, flow: Flow<IpAddr>) -> Result<bool> {
        self.amender.amend(Change::PutTransient, key, flow)
    }

    /// Removes an established flow; tells whether it was there.
    pub fn remove_established(&mut self, key: &FlowKey<IpAddr>) -> Result<bool> {
        self.amender.amend_at(Change::RemoveEstablished, key)
    }

    /// Removes a half-open or ended flow; tells whether it was there.
    pub fn remove_transient(&mut self, key: &FlowKey<IpAddr>) -> Result<bool> {
        self.amender.amend_at(Change::RemoveTransient, key)
    }

    /// Gives an established flow the generation that no member has, so that its next packet meets an
    /// RST; tells whether it was there.
    pub fn disown(&mut self, key: &FlowKey<IpAddr>) -> Result<bool> {
        self.amender.amend_at(Change::Disown, key)
    }
}

/// The program that changes flows, and its orders. One thread gives them.
pub(super) struct Amender {
    pin: PathBuf,
    orders: Array<MapData, Amendment>,
    program: OnceCell<Xdp>,
}

impl Amender {
    pub(super) fn new(pin_dir: &Path, orders: Map) -> Result<Self> {
        Ok(Self {
            pin: pin_dir.join(AMEND_PIN),
            orders: orders.try_into()?,
            program: OnceCell::new(),
        })
    }

    /// Changes a flow of which only the key matters.
    fn amend_at(&mut self, change: Change, key: &FlowKey<IpAddr>) -> Result<bool> {
        let nothing = Flow::new(Direction::ToBackend, key, *key, Slot(0), Tick(0));
        self.amend(change, *key, nothing)
    }

    fn amend(&mut self, change: Change, key: FlowKey<IpAddr>, flow: Flow<IpAddr>) -> Result<bool> {
        let entry = Entry::new(key.map(IpAddr::widen), flow.map(IpAddr::widen));
        let order = Amendment::new(change, key.source.is_ipv4(), entry);
        self.orders.set(0, order, ANY)?;
        let done = self.program()?.test_run(TestRunOptions {
            data_in: Some(&NO_FRAME),
            ..TestRunOptions::default()
        })?;
        Ok(done.return_value != 0)
    }

    fn program(&self) -> Result<&Xdp> {
        if let Some(program) = self.program.get() {
            return Ok(program);
        }
        let program = Xdp::from_pin(&self.pin, XdpAttachType::Interface)
            .with_context(|| format!("cannot open the program {}", self.pin.display()))?;
        Ok(self.program.get_or_init(|| program))
    }
}

/// The name under which the program that changes flows is pinned.
pub const AMEND_PIN: &str = "amend";
/// The kernel wants a frame to run a program on, of at least an Ethernet header.
const NO_FRAME: [u8; 14] = [0; 14];
