use super::*;
pub const TEST: Test = super::gate_up_matching::TEST;
