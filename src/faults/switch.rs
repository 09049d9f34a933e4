//! The faults of this process, for the places that have them: connections to peers, the disk, the wall clock.
//!
//! A process is one node, so there is one switch for it; the node of a lab turns it on before it opens any port or file.
//! Not here: who changes it (`node/lab/follow.rs`).

use super::{Fault, LinkQuality, quality};
use crate::lock::{Mutex, lock, wait_timeout};
use crate::types::NodeId;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Condvar, OnceLock};
use std::time::Duration;

/// The switch of this process; none outside a lab.
static SWITCH: OnceLock<Switch> = OnceLock::new();

/// The faults of one node.
#[derive(Debug)]
pub struct Switch {
    me: NodeId,
    /// Port of the peer server of node 0: which node an address of this host is.
    peer_port_base: u16,
    links: Mutex<Vec<Fault>>,
    links_changed: Condvar,
    disk_delay_ms: AtomicU64,
    is_disk_failing: AtomicBool,
    is_disk_full: AtomicBool,
    clock_ms: AtomicI64,
}

/// The switch, in a lab.
pub fn get() -> Option<&'static Switch> {
    SWITCH.get()
}

/// Turns the switch of this process on, for node `me`. A second call has no effect.
pub fn turn_on(me: NodeId, peer_port_base: u16) -> &'static Switch {
    SWITCH.get_or_init(|| Switch::new(me, peer_port_base))
}

/// How far the wall clock is off, in milliseconds.
pub fn clock_ms() -> i64 {
    get().map_or(0, |switch| switch.clock_ms.load(Ordering::Relaxed))
}

impl Switch {
    fn new(me: NodeId, peer_port_base: u16) -> Switch {
        Switch {
            me,
            peer_port_base,
            links: Mutex::new(Vec::new()),
            links_changed: Condvar::new(),
            disk_delay_ms: AtomicU64::new(0),
            is_disk_failing: AtomicBool::new(false),
            is_disk_full: AtomicBool::new(false),
            clock_ms: AtomicI64::new(0),
        }
    }

    /// From now on these are the faults.
    pub fn set(&self, faults: &[Fault]) {
        let (mut delay_ms, mut clock_ms, mut is_failing, mut is_full) = (0_u64, 0_i64, false, false);
        let mut links = Vec::new();
        for fault in faults {
            match fault {
                Fault::Link { .. } => links.push(fault.clone()),
                Fault::SlowDisk { delay_ms: more } => delay_ms = delay_ms.saturating_add(*more),
                Fault::FailingDisk => is_failing = true,
                Fault::FullDisk => is_full = true,
                Fault::Clock { offset_ms } => clock_ms = clock_ms.saturating_add(*offset_ms),
            }
        }
        self.disk_delay_ms.store(delay_ms, Ordering::Relaxed);
        self.is_disk_failing.store(is_failing, Ordering::Relaxed);
        self.is_disk_full.store(is_full, Ordering::Relaxed);
        self.clock_ms.store(clock_ms, Ordering::Relaxed);
        *lock(&self.links) = links;
        self.links_changed.notify_all();
    }

    /// The node that has this peer address, if it is one of this host's ports.
    pub fn node_at(&self, address: &str) -> Option<NodeId> {
        let port = address.rsplit_once(':')?.1.parse::<u16>().ok()?;
        let id = u64::from(port.checked_sub(self.peer_port_base)?);
        (1..=NodeId::MAX).contains(&id).then_some(NodeId(id))
    }

    /// The direction from this node to `peer`.
    pub fn to(&self, peer: NodeId) -> LinkQuality {
        quality(&lock(&self.links), self.me, peer)
    }

    /// The direction from `peer` to this node.
    pub fn from(&self, peer: NodeId) -> LinkQuality {
        quality(&lock(&self.links), peer, self.me)
    }

    /// Waits until links may have changed, for so long at most.
    pub fn wait_for_links(&self, most: Duration) {
        drop(wait_timeout(&self.links_changed, lock(&self.links), most));
    }

    /// How much longer a sync takes.
    pub fn disk_delay(&self) -> Duration {
        Duration::from_millis(self.disk_delay_ms.load(Ordering::Relaxed))
    }

    pub fn is_disk_failing(&self) -> bool {
        self.is_disk_failing.load(Ordering::Relaxed)
    }

    pub fn is_disk_full(&self) -> bool {
        self.is_disk_full.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_replace_those_before() {
        let switch = Switch::new(NodeId(2), 5700);
        let cut = LinkQuality { is_cut: true, ..LinkQuality::default() };
        switch.set(&[
            Fault::Link { from: NodeId(2), to: NodeId(1), quality: cut },
            Fault::SlowDisk { delay_ms: 20 },
            Fault::Clock { offset_ms: -5 },
            Fault::FullDisk,
        ]);
        assert!(switch.to(NodeId(1)).is_cut && !switch.from(NodeId(1)).is_cut && switch.is_disk_full());
        assert_eq!(switch.disk_delay(), Duration::from_millis(20));
        switch.set(&[Fault::FailingDisk]);
        assert!(!switch.to(NodeId(1)).is_cut && !switch.is_disk_full() && switch.is_disk_failing());
        assert_eq!(switch.disk_delay(), Duration::ZERO);
    }

    #[test]
    fn addresses_of_this_host_name_nodes() {
        let switch = Switch::new(NodeId(2), 5700);
        assert_eq!(switch.node_at("127.0.0.1:5703"), Some(NodeId(3)));
        assert_eq!(switch.node_at("[::1]:5701"), Some(NodeId(1)));
        for other in ["127.0.0.1:5700", "127.0.0.1:80", "127.0.0.1:9000", "nowhere", ""] {
            assert_eq!(switch.node_at(other), None, "{other}");
        }
    }
}
