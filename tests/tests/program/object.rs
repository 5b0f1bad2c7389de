//! What can be read off the object without a kernel: how deep its stack gets, how large its tables are.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use anyhow::{Context as _, Result};
use aya_obj::Object;
use aya_obj::generated::bpf_insn;
use lb_userspace::shell::bpf::{OBJECT, PROGRAM};

/// A stack frame is a multiple of this, in bytes, until Linux 6.9; of 16 since then, where the machine code does
/// so itself (`round_up_stack_depth`).
const FRAME_UNIT: u32 = 32;

/// Bytes of stack in the deepest chain of calls; the kernel allows 512.
pub(crate) fn stack_depth() -> Result<u32> {
    let mut object = Object::parse(OBJECT)?;
    let sections: HashSet<usize> = object
        .functions
        .keys()
        .map(|(section, _)| *section)
        .collect();
    object.relocate_calls(&sections)?;
    let program = object.programs.get(PROGRAM).context("no program")?;
    let function = object.functions.get(&program.function_key());
    Ok(Functions::of(&function.context("no code")?.instructions).deepest(0))
}

/// Bytes of keys and values in each table as the object has it. The table of established flows has room for one
/// connection there, and the controller gives it its size.
pub(crate) fn table_sizes() -> Result<BTreeMap<String, u64>> {
    let object = Object::parse(OBJECT)?;
    let tables = object
        .maps
        .iter()
        .filter(|(name, _)| !name.starts_with('.'));
    let size = |map: &aya_obj::Map| {
        let entry = u64::from(map.key_size()) + u64::from(map.value_size());
        // A ring buffer has no entries: its size is in bytes.
        u64::from(map.max_entries()) * entry.max(1)
    };
    Ok(tables
        .map(|(name, map)| (name.clone(), size(map)))
        .collect())
}

/// The functions of a program, by the number of their first instruction.
struct Functions(BTreeMap<usize, Function>);

#[derive(Default)]
struct Function {
    /// Bytes of its own frame.
    depth: u32,
    callees: BTreeSet<usize>,
}

impl Functions {
    fn of(instructions: &[bpf_insn]) -> Self {
        let mut functions = BTreeMap::from([(0, Function::default())]);
        for (index, instruction) in instructions.iter().enumerate() {
            functions.extend(target(index, instruction).map(|start| (start, Function::default())));
        }
        let starts: Vec<usize> = functions.keys().copied().collect();
        for (number, start) in starts.iter().enumerate() {
            let end = starts
                .get(number + 1)
                .copied()
                .unwrap_or(instructions.len());
            let body = &instructions[*start..end];
            let targets = (*start..)
                .zip(body)
                .filter_map(|(index, it)| target(index, it));
            let function = Function {
                depth: own_depth(body),
                callees: targets.collect(),
            };
            functions.insert(*start, function);
        }
        Self(functions)
    }

    /// Bytes of stack from this function on. BPF knows no recursion.
    fn deepest(&self, start: usize) -> u32 {
        let Some(function) = self.0.get(&start) else {
            return 0;
        };
        let below = function.callees.iter().map(|callee| self.deepest(*callee));
        function.depth.max(1).next_multiple_of(FRAME_UNIT) + below.max().unwrap_or(0)
    }
}

const CALL: u8 = 0x85;
const LOAD_IMMEDIATE: u8 = 0x18;
const MOVE: u8 = 0xbf;
const ADD_IMMEDIATE: u8 = 0x07;
const FRAME_POINTER: u8 = 10;

/// The function that an instruction calls, or hands to a helper to call.
fn target(index: usize, instruction: &bpf_insn) -> Option<usize> {
    let is_call = instruction.code == CALL && instruction.src_reg() == 1;
    let is_address = instruction.code == LOAD_IMMEDIATE && instruction.src_reg() == 4;
    let distance = isize::try_from(instruction.imm).ok()?;
    (is_call || is_address).then(|| (index + 1).checked_add_signed(distance))?
}

/// The lowest byte that a function touches below its frame pointer, or takes the address of.
fn own_depth(body: &[bpf_insn]) -> u32 {
    let mut deepest = 0;
    // Registers that hold the frame pointer itself, before something is added to them.
    let mut copies = BTreeSet::new();
    for instruction in body {
        let [to, from] = [instruction.dst_reg(), instruction.src_reg()];
        let base = match instruction.code & 0x07 {
            // Loads, and the two kinds of stores.
            1 => from,
            2 | 3 => to,
            _ => u8::MAX,
        };
        let mut lowest = if base == FRAME_POINTER {
            i32::from(instruction.off)
        } else {
            0
        };
        if instruction.code == MOVE && from == FRAME_POINTER {
            copies.insert(to);
        } else if copies.remove(&to) && instruction.code == ADD_IMMEDIATE {
            lowest = instruction.imm;
        }
        deepest = deepest.max(lowest.min(0).unsigned_abs());
    }
    deepest
}
