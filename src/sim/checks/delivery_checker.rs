//! Chat: each acknowledged message has one number, and each number one message.

use crate::services::chat::{Answer, ConversationId};
use crate::sim::violation::{CheckResult, violation};
use std::collections::BTreeMap;

/// The acknowledged messages.
#[derive(Default)]
pub struct DeliveryChecker {
    pub(crate) by_id: BTreeMap<(u64, u64), (ConversationId, u64)>,
    pub(crate) by_number: BTreeMap<(ConversationId, u64), (u64, u64)>,
}

impl DeliveryChecker {
    /// A client received the answer to its message.
    pub fn on_send_acknowledged(&mut self, who: u64, id: u64, reply: &[u8]) -> CheckResult {
        let Some(Answer::Sent { conversation, number, .. }) = Answer::decode(reply) else { return Ok(()) };
        let place = (conversation, number);
        if let Some(known) = self.by_id.insert((who, id), place).filter(|known| *known != place) {
            return violation!("ChatOnce", "message {id} of client {who} is {known:?} and {place:?}");
        }
        match self.by_number.insert(place, (who, id)).filter(|known| *known != (who, id)) {
            Some(other) => violation!("ChatNumber", "{place:?} is message {id} of client {who}, and {other:?}"),
            None => Ok(()),
        }
    }
}
