//! The simulator as a test.

use super::*;

#[test]
fn replay() {
    let Some(seed) = std::env::var("PHALANX_SEED").ok().and_then(|seed| seed.parse().ok()) else { return };
    let options = Options { is_traced: std::env::var_os("PHALANX_TRACE").is_some(), ..Options::default() };
    match run(seed, &options) {
        Ok(report) => println!("{report:?}"),
        Err(failure) => panic!("{failure}"),
    }
}
