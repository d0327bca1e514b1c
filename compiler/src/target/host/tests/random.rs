//! Random programs.

use tessera_ir::testing::seeds;

use super::{EXACT, check_all};
use crate::tile::Program;
use crate::tile::arbitrary::{self, Operations};
use crate::tile::parts::noise;

#[test]
fn exact_operations_agree_to_the_last_bit() {
    let programs: Vec<Program> = seeds(60)
        .map(|seed| {
            let length = [10, 20, 40, 80][seed as usize % 4];
            let choices: Vec<u16> = noise(length, seed).into_iter().map(|x| (x * 32768.0) as i32 as u16).collect();
            Program { name: format!("random_{seed}"), ..arbitrary::program(&choices, Operations::Exact) }
        })
        .collect();
    let arguments: Vec<_> = seeds(60)
        .zip(&programs)
        .map(|(seed, program)| arbitrary::arguments(program, seed as usize % 9, seed))
        .collect();
    check_all(&programs, &arguments, EXACT);
}
