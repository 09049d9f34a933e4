//! Creating accounts and logging in: the two requests that carry a password.
//!
//! A log-in goes through the log twice. First comes an attempt, which is refused while the name must wait. After the
//! password was compared comes the log-in itself, which succeeds only if the account still has the hash that was
//! compared; or the failure, which is counted before the client gets the answer. A request that waits for a free
//! hashing slot has not begun an attempt: a node that is too busy counts nothing. A name without an account takes the
//! same path, as long, to the same answer; so does a repeated sign-up.
//! Not here: hashing (`http/password_hasher.rs`), the wait (`services/chat/accounts.rs`).

use super::requests::{body, refusal, run};
use crate::http::outcome::unexpected;
use crate::http::password_hasher::{self, draw_token};
use crate::http::protocol::error::ApiError;
use crate::http::protocol::idempotency;
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request};
use crate::http::server::Server;
use crate::services::chat::{AccountId, Answer, Command, Refusal, names};
use crate::types::Index;
use serde::Deserialize;
use serde_json::json;
use std::time::Instant;

/// How long a log-in lasts.
const TOKEN_MS: u64 = 30 * 86_400_000;

/// Body of both requests.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Credentials {
    name: String,
    password: String,
}

/// `POST /v1/chat/accounts`: makes an account and logs it in.
pub(crate) fn create(request: &Request) -> ApiResult {
    let server = request.server;
    let Credentials { name, password } = body(request.body)?;
    let name = names::account(&name).map_err(|why| ApiError::refused(400, why))?;
    let until = server.deadline();
    password_hasher::check_new(&password)?;
    let hash = server.passwords.enter(until)?.hash(&password)?;
    let (token, token_hash) = draw_token();
    // Not from the body: the tag is stored in the log, and a reader of the log must not be able to test passwords
    // against it.
    let tag = idempotency::tag_for(request.head, b"", name.key.as_bytes())?;
    let (shown, key) = (name.shown.clone(), name.key.clone());
    let command = Command::Create { name, hash, token: token_hash, token_ms: TOKEN_MS };
    match run(server, tag, &command)? {
        (index, Answer::Created { account, token: stored, .. }) if stored == token_hash => {
            Ok(logged_in(index, account, &shown, token))
        }
        // The account was created earlier under the same Idempotency-Key, and the client may never have received its
        // token: log in. The password is compared, because a client that knows the key may be guessing.
        (_, Answer::Created { account: made, .. }) => match compare(server, key, &password, until)? {
            Some((account, hash)) if account == made => finish(server, account, hash),
            _ => Err(refusal(&Refusal::NameTaken)),
        },
        _ => Err(unexpected()),
    }
}

/// `POST /v1/chat/login`.
pub(crate) fn log_in(request: &Request) -> ApiResult {
    let server = request.server;
    let Credentials { name, password } = body(request.body)?;
    // A string that cannot be an account name is refused like a wrong password.
    let key = names::account(&name).map(|name| name.key).unwrap_or_default();
    password_hasher::check_given(&password)?;
    match compare(server, key, &password, server.deadline())? {
        Some((account, hash)) => finish(server, account, hash),
        None => Err(refusal(&Refusal::WrongLogIn)),
    }
}

/// The account, if this is its password; otherwise the failure has been counted.
fn compare(
    server: &Server,
    key: String,
    password: &str,
    until: Instant,
) -> Result<Option<(AccountId, String)>, ApiError> {
    let mut slot = server.passwords.enter(until)?;
    let (_, Answer::Try(found)) = run(server, None, &Command::TryLogIn { key: key.clone() })? else {
        return Err(unexpected());
    };
    let is_right = slot.is_right(password, found.as_ref().map(|(_, hash)| hash.as_str()))?;
    drop(slot);
    if !is_right {
        run(server, None, &Command::WrongLogIn { key })?;
    }
    Ok(found.filter(|_| is_right))
}

fn finish(server: &Server, account: AccountId, hash: String) -> ApiResult {
    let (token, token_hash) = draw_token();
    match run(server, None, &Command::LogIn { account, hash, token: token_hash, token_ms: TOKEN_MS })? {
        (index, Answer::LoggedIn { account, name }) => Ok(logged_in(index, account, &name, token)),
        _ => Err(unexpected()),
    }
}

fn logged_in(index: Index, account: AccountId, name: &str, token: String) -> Response {
    let body = json!({"account": account, "name": name, "token": token, "expires_in_ms": TOKEN_MS});
    Response::json(200, &body).at(index)
}
