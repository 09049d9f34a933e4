//! Connections beyond `connections_max` that are reserved for health checks, status and administration.
//!
//! They are shared by address. When all are in use, the address that has the most of them loses its oldest one. On a
//! tie this is the address of the new connection. So no address can lock another out. Idle clients cannot lock out
//! other clients of their own address either, because a health check takes milliseconds and only needs one of the
//! newest slots. A connection that loses its slot is closed for reading only: a request that has arrived is still
//! carried out and answered.
//!
//! Invariants: S1 at most [`RESERVED_CONNECTIONS`] connections may read a request. S2 with those that
//! only answer still, one address has at most [`OF_ONE_MAX`] threads, and all together have at most [`THREADS_MAX`].
//! Not here: what may be asked there (`http/routes.rs`), for how long (`http/protocol/conn.rs`).

use crate::limits::RESERVED_CONNECTIONS;
use crate::lock::{Mutex, lock};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpStream};
use std::sync::Arc;

/// Threads of one address: more than there are slots, so that threads that are about to end do not block a new client.
const OF_ONE_MAX: usize = 2 * RESERVED_CONNECTIONS;
/// Threads of all addresses. A request for administration may take as long as `request_timeout_ms`.
const THREADS_MAX: usize = 4 * OF_ONE_MAX;

/// The connections, oldest first.
#[derive(Debug, Default)]
pub struct ReservedSlots(Mutex<SlotTable>);

#[derive(Debug, Default)]
struct SlotTable {
    newest: u64,
    open: BTreeMap<u64, Holder>,
}

#[derive(Debug)]
struct Holder {
    share: IpAddr,
    stream: Arc<TcpStream>,
    /// It has lost its slot: nothing more is read from it.
    is_leaving: bool,
}

/// The slot of one connection, until it is dropped.
#[derive(Debug)]
pub struct ReservedSlot {
    slots: Arc<ReservedSlots>,
    number: u64,
}

impl ReservedSlots {
    /// A slot for a client of this address; `None`: all are in use by others with no more than it has.
    pub fn enter(self: &Arc<ReservedSlots>, client: IpAddr, stream: Arc<TcpStream>) -> Option<ReservedSlot> {
        let mut table = lock(&self.0);
        let share = share_of(client);
        let own_threads = table.open.values().filter(|open| open.share == share).count();
        if own_threads >= OF_ONE_MAX || table.open.len() >= THREADS_MAX || !table.make_room(share) {
            return None;
        }
        table.newest += 1;
        let number = table.newest;
        table.open.insert(number, Holder { share, stream, is_leaving: false });
        Some(ReservedSlot { slots: Arc::clone(self), number })
    }
}

impl SlotTable {
    /// Whether there is room for one more of this share, if need be by asking another connection to leave.
    fn make_room(&mut self, share: IpAddr) -> bool {
        let mut held: BTreeMap<IpAddr, usize> = BTreeMap::new();
        for open in self.open.values().filter(|open| !open.is_leaving) {
            *held.entry(open.share).or_default() += 1;
        }
        if held.values().sum::<usize>() < RESERVED_CONNECTIONS {
            return true;
        }
        let own = held.get(&share).copied().unwrap_or_default();
        let most = held.into_iter().max_by_key(|(whose, count)| (*count, *whose == share));
        let Some((whose, count)) = most else { return false };
        // Otherwise the new connection would be the next to lose its slot.
        if whose != share && count <= own + 1 {
            return false;
        }
        let oldest = self.open.values_mut().find(|open| open.share == whose && !open.is_leaving);
        let Some(oldest) = oldest else { return false };
        oldest.is_leaving = true;
        // Fails if the client has gone already.
        let _ = oldest.stream.shutdown(Shutdown::Read);
        true
    }
}

impl Drop for ReservedSlot {
    fn drop(&mut self) {
        lock(&self.slots.0).open.remove(&self.number);
    }
}

/// What counts as one address: all loopback addresses of this host, and a whole IPv6 network, in which each host
/// chooses its addresses.
fn share_of(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        ip if ip.is_loopback() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() & (u128::MAX << 64)).into(),
        ip => ip,
    }
}

#[cfg(test)]
mod tests {
    use crate::node::reserved_slots::*;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    struct World {
        listener: TcpListener,
        slots: Arc<ReservedSlots>,
    }

    /// A client's end of the connection, the node's, and its slot.
    type Client = (TcpStream, Arc<TcpStream>, Option<ReservedSlot>);

    impl World {
        fn come(&self, from: &str) -> Client {
            let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let stream = Arc::new(self.listener.accept().unwrap().0);
            let slot = self.slots.enter(from.parse().unwrap(), Arc::clone(&stream));
            (client, stream, slot)
        }
    }

    fn world() -> World {
        World { listener: TcpListener::bind("127.0.0.1:0").unwrap(), slots: Arc::default() }
    }

    fn gives_way((_, stream, _): &Client) -> bool {
        stream.set_nonblocking(true).unwrap();
        matches!((&mut &**stream).read(&mut [0]), Ok(0))
    }

    #[test]
    fn an_address_that_has_all_slots_gives_way_to_another_and_to_itself() {
        let world = world();
        let many: Vec<_> = (0..RESERVED_CONNECTIONS).map(|_| world.come("10.0.0.1")).collect();
        assert!(many.iter().all(|client| client.2.is_some() && !gives_way(client)));
        let other = world.come("10.0.0.2");
        assert!(other.2.is_some() && gives_way(&many[0]) && !gives_way(&many[1]));
        // What has been asked is answered all the same.
        (&mut &*many[0].1).write_all(b"x").unwrap();
        (&mut &many[0].0).read_exact(&mut [0]).unwrap();
        let same = world.come("10.0.0.1");
        assert!(same.2.is_some() && gives_way(&many[1]) && !gives_way(&other));
        // Other addresses connect until 10.0.0.1 has as few slots as they have; no address with one slot loses it.
        let others: Vec<_> = (3..3 + RESERVED_CONNECTIONS).map(|n| world.come(&format!("10.0.0.{n}"))).collect();
        let inside = others.iter().filter(|client| client.2.is_some()).count();
        assert_eq!(inside, RESERVED_CONNECTIONS - 2, "with 10.0.0.1 and 10.0.0.2");
        assert!(
            !gives_way(&other)
                && !gives_way(&same)
                && others.iter().all(|client| client.2.is_none() || !gives_way(client))
        );
        assert!(lock(&world.slots.0).open.len() <= THREADS_MAX);
        drop((many, other, same, others));
        assert!(lock(&world.slots.0).open.is_empty());
    }

    #[test]
    fn connections_of_one_address_are_limited_until_they_end() {
        let World { listener, slots } = world();
        let stream = Arc::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        let of = |n: usize| -> Vec<ReservedSlot> {
            let ip = format!("10.0.0.{n}").parse().unwrap();
            (0..OF_ONE_MAX + 8).filter_map(|_| slots.enter(ip, Arc::clone(&stream))).collect()
        };
        let (one, two) = (of(1), of(2));
        assert_eq!((one.len(), two.len()), (OF_ONE_MAX, OF_ONE_MAX), "none of them has ended");
        let more: Vec<_> = (3..9).map(of).collect();
        assert_eq!(lock(&slots.0).open.len(), THREADS_MAX, "{}", more.len());
    }

    #[test]
    fn loopback_is_one_address_and_so_is_an_ipv6_network() {
        let share = |ip: &str| share_of(ip.parse().unwrap());
        assert!(["127.0.0.9", "::1", "::ffff:127.0.0.2"].iter().all(|ip| share(ip) == share("127.0.0.1")));
        assert_eq!(share("2001:db8::1"), share("2001:db8::2:0:0:1"));
        assert_ne!(share("2001:db8::1"), share("2001:db8:0:1::1"));
        assert_eq!(share("::ffff:10.0.0.1"), share("10.0.0.1"));
        assert_ne!(share("10.0.0.1"), share("10.0.0.2"));
    }
}
