//! Waiting for an inbox without spinning first.
//!
//! A channel's own `recv` yields the processor several times before it parks, in the hope that a message comes at once.
//! Under load that hope is worth it; an idle node would pay for it a hundred times a second.
//! Not here: what the inboxes carry (each thread's own file).

use crossbeam_channel::{Receiver, RecvTimeoutError, Select};
use std::time::Instant;

/// Takes the next message, parking at once if there is none.
///
/// # Errors
/// `Timeout` at the deadline, `Disconnected` when all senders are gone and nothing is left.
pub fn park<T>(inbox: &Receiver<T>, deadline: Instant) -> Result<T, RecvTimeoutError> {
    if let Ok(message) = inbox.try_recv() {
        return Ok(message);
    }
    let mut select = Select::new();
    select.recv(inbox);
    let ready = select.select_deadline(deadline).map_err(|_| RecvTimeoutError::Timeout)?;
    ready.recv(inbox).map_err(|_| RecvTimeoutError::Disconnected)
}

#[cfg(test)]
mod tests {
    use crate::node::shared::inbox::*;
    use crossbeam_channel::bounded;
    use std::time::Duration;

    #[test]
    fn messages_deadlines_and_the_end_are_distinguished() {
        let (sender, inbox) = bounded(4);
        let within = |span: u64| Instant::now() + Duration::from_millis(span);
        assert_eq!(park(&inbox, within(1)), Err(RecvTimeoutError::Timeout));
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        assert_eq!((park(&inbox, within(0)), park(&inbox, within(1))), (Ok(1), Ok(2)));
        let late = std::thread::spawn(move || sender.send(3).unwrap());
        assert_eq!(park(&inbox, within(60_000)), Ok(3));
        late.join().unwrap();
        assert_eq!(park(&inbox, within(60_000)), Err(RecvTimeoutError::Disconnected));
    }
}
