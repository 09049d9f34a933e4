//! How long a connection may stand still before it is closed and made anew.
//!
//! Where packets are lost, TCP stands still for seconds now and then. As long as datagrams arrive meanwhile, the peer is
//! there, and they would stop with the connection: it is given more time. Where they do not arrive, the network may be
//! cut; then TCP tries again ever more seldom, and a new connection is of use sooner once it is whole again.
//! Not here: the connections (`node/peer/dialer.rs`), whether datagrams arrive (`node/datagrams/outgoing.rs`).

use std::io;
use std::net::TcpStream;
use std::time::Duration;

/// What was sent is not acknowledged for so long: the kernel closes the connection.
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(5);
#[cfg(target_os = "linux")]
const UNACKNOWLEDGED_MAX_LOSSY: Duration = Duration::from_secs(30);
/// The connection accepts nothing for so long (the peer is frozen, or cut off): the thread that writes closes it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(2);
const WRITE_TIMEOUT_LOSSY: Duration = Duration::from_secs(10);

/// Sets both. `is_lossy`: small frames go as datagrams, and these arrive.
pub fn set(stream: &TcpStream, is_lossy: bool) -> io::Result<()> {
    stream.set_write_timeout(Some(if is_lossy { WRITE_TIMEOUT_LOSSY } else { WRITE_TIMEOUT }))?;
    #[cfg(target_os = "linux")]
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(if is_lossy {
        UNACKNOWLEDGED_MAX_LOSSY
    } else {
        UNACKNOWLEDGED_MAX
    }))?;
    Ok(())
}
