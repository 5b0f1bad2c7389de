//! The feeder and the reference programs in the kernel, and the clock.

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, HashMap, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader, include_bytes_aligned};
use nix::time::{ClockId, clock_gettime};

use crate::frame::{self, Family};

const OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bench-xdp"));
/// Words of 8 bytes that the feeder may restore.
const TEMPLATE_WORDS: usize = 12;

/// The loaded feeder and reference programs, and the feeder's tables.
pub(crate) struct Feeder {
    ebpf: Ebpf,
    feed: Array<MapData, [u64; 4]>,
    templates: Array<MapData, [u64; TEMPLATE_WORDS]>,
    flows: Array<MapData, [u32; 4]>,
    measured: ProgramArray<MapData>,
    templates_used: u32,
    flows_used: u32,
}

/// Frames that are fed in turn.
#[derive(Clone)]
pub(crate) struct Feed {
    /// The family of all of them.
    pub(crate) family: Family,
    /// How many there are: a power of two.
    pub(crate) flows: usize,
    template: u32,
    base: u32,
    frame: Vec<u8>,
}

/// What a program did to the last frame of a run.
pub(crate) struct Outcome {
    /// The XDP action.
    pub(crate) action: u32,
    /// The frame as it was left.
    pub(crate) frame: Vec<u8>,
}

impl Feeder {
    /// Loads every program of the object.
    pub(crate) fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT)?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into()?;
            program
                .load()
                .with_context(|| format!("the kernel does not accept {name}"))?;
        }
        let mut take = |name: &str| {
            ebpf.take_map(name)
                .with_context(|| format!("no map {name}"))
        };
        Ok(Self {
            feed: take("FEED")?.try_into()?,
            templates: take("TEMPLATES")?.try_into()?,
            flows: take("FLOWS")?.try_into()?,
            measured: take("MEASURED")?.try_into()?,
            templates_used: 0,
            flows_used: 0,
            ebpf,
        })
    }

    /// A reference program, by its name.
    pub(crate) fn reference(&self, name: &str) -> Result<ProgramFd> {
        Ok(self.xdp(name)?.fd()?.try_clone()?)
    }

    /// A hash of the reference programs.
    pub(crate) fn hash<const K: usize, const V: usize>(
        &mut self,
        name: &str,
    ) -> Result<HashMap<&mut MapData, [u32; K], [u32; V]>> {
        let map = self
            .ebpf
            .map_mut(name)
            .with_context(|| format!("no map {name}"))?;
        Ok(map.try_into()?)
    }

    /// Makes a feed of frames that differ in addresses, ports and checksums only.
    pub(crate) fn prepare(&mut self, frames: &[Vec<u8>]) -> Result<Feed> {
        let first = frames.first().context("a feed of no frames")?;
        ensure!(frames.len().is_power_of_two(), "{} flows", frames.len());
        let mut bytes = [0; TEMPLATE_WORDS * 8];
        let restored = bytes.len().min(first.len());
        bytes[..restored].copy_from_slice(&first[..restored]);
        let mut words = [0; TEMPLATE_WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into()?);
        }
        let feed = Feed {
            family: frame::kind(first),
            flows: frames.len(),
            template: self.templates_used,
            base: self.flows_used,
            frame: first.clone(),
        };
        self.templates.set(feed.template, words, 0)?;
        self.templates_used += 1;
        for frame in frames {
            self.flows.set(self.flows_used, frame::patch(frame), 0)?;
            self.flows_used += 1;
        }
        Ok(feed)
    }

    /// Runs a program once, on frame `index` of a feed.
    pub(crate) fn run_once(
        &mut self,
        feed: &Feed,
        program: &ProgramFd,
        index: usize,
    ) -> Result<Outcome> {
        self.aim(feed, program, index)?;
        let mut left = vec![0; feed.frame.len() + 64];
        let result = self.xdp(feeder(feed))?.test_run(TestRunOptions {
            data_in: Some(&feed.frame),
            data_out: Some(&mut left),
            ..TestRunOptions::default()
        })?;
        left.truncate(result.data_size_out as usize);
        Ok(Outcome {
            action: result.return_value,
            frame: left,
        })
    }

    /// The CPU time of one repetition in nanoseconds, over so many of them, after each flow has
    /// been there once; and the XDP action of the last.
    pub(crate) fn measure(
        &mut self,
        feed: &Feed,
        program: &ProgramFd,
        repetitions: u32,
    ) -> Result<(f64, u32)> {
        self.aim(feed, program, 0)?;
        let xdp = self.xdp(feeder(feed))?;
        let run = |repeat| {
            xdp.test_run(TestRunOptions {
                data_in: Some(&feed.frame),
                repeat,
                ..TestRunOptions::default()
            })
        };
        run(u32::try_from(feed.flows)?.max(repetitions / 100).max(2))?;
        let before = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let last = run(repetitions)?;
        let after = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID)?;
        let seconds = (after.tv_sec() - before.tv_sec()) as f64;
        let nanoseconds = seconds * 1e9 + (after.tv_nsec() - before.tv_nsec()) as f64;
        Ok((nanoseconds / f64::from(repetitions), last.return_value))
    }

    fn aim(&mut self, feed: &Feed, program: &ProgramFd, index: usize) -> Result<()> {
        self.measured.set(0, program, 0)?;
        let words = [
            index,
            feed.flows - 1,
            feed.base as usize,
            feed.template as usize,
        ];
        Ok(self.feed.set(0, words.map(|word| word as u64), 0)?)
    }

    fn xdp(&self, name: &str) -> Result<&Xdp> {
        let program = self
            .ebpf
            .program(name)
            .with_context(|| format!("no program {name}"))?;
        Ok(program.try_into()?)
    }
}

fn feeder(feed: &Feed) -> &'static str {
    match feed.family {
        Family::V4 => "feed_v4",
        Family::V6 => "feed_v6",
    }
}
