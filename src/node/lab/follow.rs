//! The `lab` thread: has this process obey the faults that its supervisor keeps.
//!
//! The first update is obeyed before the node opens anything: a node that starts again within a partition is still within
//! it. The supervisor acknowledges nothing to a person before this process has it in force.
//! Not here: what the faults do (`faults/switch.rs` names the places), faults of the process itself (`lab/supervisor/`).

use crate::faults::control::{self, FaultUpdate};
use crate::faults::switch::{self, Switch};
use crate::node::spawn;
use crate::settings::Settings;
use crate::types::NodeId;
use std::io::{self, BufReader};
use std::net::TcpStream;

/// Exit code of a node whose supervisor has ended: that of a killed process.
const EXIT_ABANDONED: i32 = 137;

/// Turns the faults of the supervisor on, and follows their changes from now on.
///
/// # Errors
/// No supervisor of this node answers.
pub fn follow(settings: &Settings, me: NodeId) -> io::Result<()> {
    // A node does not outlive its supervisor, or nobody could end its faults. Elsewhere the end of the stream says it.
    #[cfg(target_os = "linux")]
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    let stream = control::follow(&settings.data_dir, me)?;
    let switch = switch::turn_on(me, settings.leader_port_base);
    let mut updates = BufReader::new(stream.try_clone()?);
    obey(switch, &mut updates, &stream)?;
    spawn::spawn("lab", move || {
        while obey(switch, &mut updates, &stream).is_ok() {}
        std::process::exit(EXIT_ABANDONED);
    })?;
    Ok(())
}

fn obey(switch: &Switch, updates: &mut BufReader<TcpStream>, to: &TcpStream) -> io::Result<()> {
    let FaultUpdate { number, faults } = control::receive(updates)?;
    switch.set(&faults);
    control::send(to, &number)
}
