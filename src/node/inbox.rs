//! Waiting for an inbox without spinning first.
//!
//! A channel's own `recv` yields the processor several times before it parks, in the hope that a message comes at once. On
//! a machine with fewer cores than threads that runs every other thread in between, and an idle node pays for each hope.
//! Not here: what the inboxes carry (each thread's own file).

use crossbeam_channel::{Receiver, RecvTimeoutError, Select};
use std::time::Instant;

/// Takes the next message, parking at once if there is none; `None` as deadline: for as long as it takes.
///
/// # Errors
/// `Timeout` at the deadline, `Disconnected` when all senders are gone and nothing is left.
pub fn receive<T>(inbox: &Receiver<T>, deadline: Option<Instant>) -> Result<T, RecvTimeoutError> {
    if let Ok(message) = inbox.try_recv() {
        return Ok(message);
    }
    let mut select = Select::new();
    select.recv(inbox);
    let ready = match deadline {
        Some(deadline) => select.select_deadline(deadline).map_err(|_| RecvTimeoutError::Timeout)?,
        None => select.select(),
    };
    ready.recv(inbox).map_err(|_| RecvTimeoutError::Disconnected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crossbeam_channel::bounded;
    use std::time::Duration;

    #[test]
    fn messages_deadlines_and_the_end_are_told_apart() {
        let (sender, inbox) = bounded(4);
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        assert_eq!(receive(&inbox, soon()), Err(RecvTimeoutError::Timeout));
        sender.send(1).unwrap();
        sender.send(2).unwrap();
        assert_eq!((receive(&inbox, None), receive(&inbox, soon())), (Ok(1), Ok(2)));
        let late = std::thread::spawn(move || sender.send(3).unwrap());
        assert_eq!(receive(&inbox, None), Ok(3));
        late.join().unwrap();
        assert_eq!(receive(&inbox, None), Err(RecvTimeoutError::Disconnected));
    }
}
