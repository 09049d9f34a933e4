//! Any bytes, as a client's requests: nothing panics, and what they mean does not depend on how they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // The first bytes choose the cuts, so that a finding can be run again.
    let seed = data.iter().take(8).fold(0u64, |seed, byte| seed << 8 | u64::from(*byte));
    phalanx::resp::protocol::request_fuzzing::check(data, &mut fastrand::Rng::with_seed(seed));
});
