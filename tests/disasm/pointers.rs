//! Which functions the registers of x86-64 code point at.
//!
//! A compiler that calls `memcpy` twice may load its address once and call the
//! register. This follows such addresses through a function, forward, over all
//! paths: where every path that reaches a call left the same one in the
//! register, the call is as good as direct. Anything else stays indirect.

use super::Flow;
use iced_x86::{Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register};
use std::collections::HashMap;

/// The sixteen general registers, each with where a call of it would go.
type Registers = [Flow; 16];

/// Registers that a call preserves, by the System V convention.
const PRESERVED: [Register; 6] = [
    Register::RBX,
    Register::RBP,
    Register::R12,
    Register::R13,
    Register::R14,
    Register::R15,
];

fn index(register: Register) -> Option<usize> {
    let full = register.full_register();
    (Register::RAX..=Register::R15)
        .contains(&full)
        .then(|| full as usize - Register::RAX as usize)
}

/// The registers after `instruction`.
fn step(
    info: &mut InstructionInfoFactory,
    instruction: &Instruction,
    before: &Registers,
) -> Registers {
    let mut after = *before;
    let value = match (instruction.mnemonic(), instruction.op1_kind()) {
        (Mnemonic::Mov, OpKind::Memory) if instruction.is_ip_rel_memory_operand() => {
            Flow::Slot(instruction.ip_rel_memory_address())
        }
        (Mnemonic::Lea, OpKind::Memory) if instruction.is_ip_rel_memory_operand() => {
            Flow::Direct(instruction.ip_rel_memory_address())
        }
        (Mnemonic::Mov, OpKind::Register) if instruction.op1_register().is_gpr64() => {
            index(instruction.op1_register()).map_or(Flow::Indirect, |i| before[i])
        }
        _ => Flow::Indirect,
    };
    for used in info.info(instruction).used_registers() {
        let written = matches!(
            used.access(),
            OpAccess::Write | OpAccess::CondWrite | OpAccess::ReadWrite | OpAccess::ReadCondWrite
        );
        if let (true, Some(i)) = (written, index(used.register())) {
            // Only a move of all 64 bits is a known pointer.
            let whole = used.register().is_gpr64() && used.access() == OpAccess::Write;
            after[i] = if whole { value } else { Flow::Indirect };
        }
    }
    if instruction.mnemonic() == Mnemonic::Call {
        for (i, register) in after.iter_mut().enumerate() {
            if !PRESERVED.iter().any(|&kept| index(kept) == Some(i)) {
                *register = Flow::Indirect;
            }
        }
    }
    after
}

/// Where each call or jump through a register goes, by its address. `flow` is
/// what the instruction says by itself.
pub fn known(code: &[Instruction], flow: impl Fn(&Instruction) -> Flow) -> HashMap<u64, Flow> {
    let at: HashMap<u64, usize> = code.iter().enumerate().map(|(i, c)| (c.ip(), i)).collect();
    let mut info = InstructionInfoFactory::new();
    let mut reached: Vec<Option<Registers>> = vec![None; code.len()];
    // Registers know nothing where the function begins.
    let mut arrivals = vec![(0, [Flow::Indirect; 16])];
    let mut result = HashMap::new();
    while let Some((i, state)) = arrivals.pop() {
        let (Some(instruction), Some(old)) = (code.get(i), reached.get_mut(i)) else {
            continue;
        };
        let before: Registers = old.map_or(state, |old| {
            std::array::from_fn(|r| {
                if old[r] == state[r] {
                    old[r]
                } else {
                    Flow::Indirect
                }
            })
        });
        // A state only ever loses knowledge, so this ends, and the last visit
        // has the truth.
        if old.replace(before) == Some(before) {
            continue;
        }
        if instruction.op0_kind() == OpKind::Register && flow(instruction) == Flow::Indirect {
            let known = index(instruction.op0_register()).map_or(Flow::Indirect, |r| before[r]);
            result.insert(instruction.ip(), known);
        }
        let after = step(&mut info, instruction, &before);
        if let Flow::Direct(target) = flow(instruction)
            && instruction.mnemonic() != Mnemonic::Call
            && let Some(&target) = at.get(&target)
        {
            arrivals.push((target, after));
        }
        if !matches!(
            instruction.mnemonic(),
            Mnemonic::Jmp | Mnemonic::Ret | Mnemonic::Ud2
        ) {
            arrivals.push((i + 1, after));
        }
    }
    result
}
