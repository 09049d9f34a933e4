//! Chat events as lines of JSON, for the clients that follow the chat.
//!
//! Each line contains its position; a client that has read it continues after that position. Text of users is in JSON
//! strings in which `<` is not escaped: a page must insert it as text only.
//! Not here: which lines a reader gets (`http/chat/stream.rs`).

use crate::services::chat::commands::{MessageView, Row};
use crate::services::chat::{AccountId, Chat, ConversationId, Event};
use serde_json::{Value as Json, json};

/// A line for all members of a conversation; `None` for what concerns one account alone.
pub fn for_all(chat: &Chat, position: u64, conversation: ConversationId, event: &Event) -> Option<String> {
    let mut line = match event {
        Event::Message(number, said) => {
            let mut line = message_json(&chat.message_view(*number, said));
            line["type"] = "message".into();
            line
        }
        Event::Erased(number) => json!({"type": "erased", "number": number}),
        Event::Members(count) => json!({"type": "members", "members": count}),
        Event::Missed(number) => json!({"type": "missed", "number": number}),
        Event::Joined | Event::Left | Event::Read(_) => return None,
    };
    line["position"] = position.into();
    line["conversation"] = conversation.into();
    Some(format!("{line}\n"))
}

/// A line for one account.
pub fn for_one(chat: &Chat, who: AccountId, position: u64, conversation: ConversationId, event: &Event) -> String {
    let mut line = match event {
        Event::Joined => {
            json!({"type": "joined", "row": chat.row_of(who, conversation).map(|row| row_json(&row))})
        }
        Event::Left => json!({"type": "left"}),
        Event::Read(number) => json!({"type": "read", "number": number}),
        shared => return for_all(chat, position, conversation, shared).unwrap_or_default(),
    };
    line["position"] = position.into();
    line["conversation"] = conversation.into();
    format!("{line}\n")
}

pub fn message_json(said: &MessageView) -> Json {
    json!({
        "number": said.number,
        "at_ms": said.at_ms,
        "from": {"account": said.from, "name": said.name},
        "text": said.text,
    })
}

/// A conversation in an inbox.
pub fn row_json(row: &Row) -> Json {
    json!({
        "conversation": row.id,
        "kind": if row.with.is_some() { "direct" } else { "room" },
        "name": row.name,
        "account": row.with,
        "members": row.members,
        "unread": row.unread,
        "read": row.read,
        "newest": row.newest,
        "last": row.last.as_ref().map(message_json),
    })
}
