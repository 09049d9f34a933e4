//! The log-in page, logging in and out, and the answers to requests without the password.
//!
//! A person who opens any page gets a form in its place, and afterwards the page. The form needs no script. Its answer
//! sets a cookie that no script can read and that the browser sends with requests of this host's pages only
//! (`HttpOnly`, `SameSite=Strict`). A program gets JSON, and is asked for HTTP Basic; a page's script is not, because the
//! browser would then show a dialogue of its own.
//! Not here: who is let in (`http/access.rs`).

use super::static_files::{LOGIN_PAGE, fill, reachable_hosts, with_page_headers};
use crate::http::access::{self, Denied};
use crate::http::protocol::conn::Conn;
use crate::http::protocol::error::ApiError;
use crate::http::protocol::head::{Head, Method};
use crate::http::protocol::params::{self, percent_decode};
use crate::http::protocol::response::Response;
use crate::http::request::{ApiResult, Request, Upload};
use crate::http::server::Server;
use crate::limits::HTTP_LOGIN_BYTES_MAX;
use crate::node::client_access::SESSION;
use serde::Deserialize;
use std::time::Duration;

pub(crate) const LOGIN_PATH: &str = "/login";
/// Media type of the form.
pub(crate) const FORM: &str = "application/x-www-form-urlencoded";

/// The answer to a request that is not let in.
pub(crate) fn denied(server: &Server, head: &Head, why: Denied) -> ApiResult {
    if matches!(head.method, Some(Method::Get | Method::Head)) && head.is_navigation {
        return Ok(page(server, head, why, &head.target));
    }
    let error = match why {
        Denied::Missing => ApiError::refused(
            401,
            "this cluster requires a password: send client_password as HTTP Basic (with any user name) or as a Bearer token; \
             phalanx takes it from the settings or from PHALANX_CLIENT_PASSWORD",
        ),
        Denied::Wrong => {
            ApiError::refused(401, "wrong password: it must be the setting client_password of this cluster")
        }
        Denied::MustWait(wait) => return Err(must_wait(wait)),
    };
    let is_of_browser = head.is_browser || head.fetch_site.is_some();
    let challenge =
        if is_of_browser { "Bearer realm=\"phalanx\"" } else { "Basic realm=\"phalanx\", charset=\"UTF-8\"" };
    Err(error.with("WWW-Authenticate", challenge))
}

fn must_wait(wait: Duration) -> ApiError {
    let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
    ApiError::refused(429, "too many wrong passwords from this address: try again later").retry_after(wait_ms)
}

/// `POST /login`: the form `password=...&next=/...`; redirects to `next` with a session.
pub(crate) fn log_in(server: &Server, conn: &mut Conn, head: &Head) -> Upload {
    let body = match conn.body(head, HTTP_LOGIN_BYTES_MAX) {
        Ok(body) => body,
        Err(broken) => return broken.into(),
    };
    Upload::Read(answer(server, conn, head, &body))
}

fn answer(server: &Server, conn: &Conn, head: &Head, body: &[u8]) -> ApiResult {
    let Some(session) = access::new_session(server) else {
        return Err(ApiError::refused(404, "there is no log-in: client_password is not set"));
    };
    let form = std::str::from_utf8(body).ok().and_then(Form::read);
    let form = form.ok_or_else(|| ApiError::refused(400, "send a form with password and next"))?;
    if let Err(why) = access::check_password(server, conn, &form.password) {
        return Ok(page(server, head, why, &form.next));
    }
    // A proxy that ends TLS names itself in `Origin`.
    let is_secure = head.origin.as_deref().is_some_and(|origin| origin.starts_with("https://"));
    let cookie = cookie(server, &session, SESSION.as_secs(), is_secure);
    Ok(Response::empty(303).with("Location", form.next).with("Set-Cookie", cookie))
}

/// `POST /logout`: has the browser forget its session.
pub(crate) fn log_out(request: &Request) -> ApiResult {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct EmptyBody {}
    if !request.body.is_empty() {
        let EmptyBody {} = params::object(request.body)?;
    }
    Ok(Response::empty(204).with("Set-Cookie", cookie(request.server, "", 0, false)))
}

fn cookie(server: &Server, session: &str, age_s: u64, is_secure: bool) -> String {
    let secure = if is_secure { "; Secure" } else { "" };
    let name = access::cookie_name(server);
    format!("{name}={session}; Path=/; Max-Age={age_s}; HttpOnly; SameSite=Strict{secure}")
}

struct Form {
    password: Vec<u8>,
    /// A path of this server.
    next: String,
}

impl Form {
    fn read(text: &str) -> Option<Form> {
        let (mut password, mut next) = (None, String::new());
        for pair in text.trim_end().split('&') {
            let (name, value) = pair.split_once('=')?;
            let value = percent_decode(&value.replace('+', " "))?;
            match name {
                "password" => password = Some(value),
                "next" => next = String::from_utf8(value).ok()?,
                _ => return None,
            }
        }
        if !is_own_path(&next) {
            next = "/".to_string();
        }
        Some(Form { password: password?, next })
    }
}

/// Whether a browser would go on to a path of this server: `//host` and `/\host` are other servers.
fn is_own_path(target: &str) -> bool {
    target.starts_with('/')
        && !target.starts_with("//")
        && !target.contains('\\')
        && target.bytes().all(|byte| (0x21..=0x7e).contains(&byte))
}

/// The page with the form; after it the browser goes on to `next`.
fn page(server: &Server, head: &Head, why: Denied, next: &str) -> Response {
    let nonce = uuid::Uuid::new_v4().simple().to_string();
    let (status, said) = match why {
        Denied::Missing => (401, String::new()),
        Denied::Wrong => (401, "Wrong password.".to_string()),
        Denied::MustWait(wait) => {
            (429, format!("Too many wrong passwords from this address: try again in {} s.", wait.as_secs() + 1))
        }
    };
    let next = if is_own_path(next) { next } else { "/" };
    let html = fill(LOGIN_PAGE, &[("{{nonce}}", &nonce), ("{{next}}", &escaped(next)), ("{{error}}", &escaped(&said))]);
    // The front door, where a person may log in as well, redirects to a node: browsers check that address, too.
    let hosts = reachable_hosts(&server.host.http_addresses(), &head.host);
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; img-src data:; form-action 'self' {hosts}; base-uri 'none'; \
         frame-ancestors 'none'"
    );
    let response = Response { content_type: "text/html; charset=utf-8", ..Response::text(status, html) };
    let response = response.with("WWW-Authenticate", "Bearer realm=\"phalanx\"");
    with_page_headers(response, policy)
}

/// Text for an element or an attribute in double quotes.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_leads_to_a_path_of_this_server_only() {
        let next = |next: &str| Form::read(&format!("password=a+b%26&next={next}")).map(|form| form.next);
        for (given, expected) in [
            ("%2Fchat%3Fa%3D1%26b", "/chat?a=1&b"),
            ("%2F", "/"),
            ("", "/"),
            ("%2F%2Fevil.example", "/"),
            ("%2F%5Cevil.example", "/"),
            ("%2Fa%5Cevil.example", "/"),
            ("http%3A%2F%2Fevil.example", "/"),
            ("%2Fa%0D%0ASet-Cookie%3A+b", "/"),
        ] {
            assert_eq!(next(given).as_deref(), Some(expected), "{given}");
        }
        assert_eq!(Form::read("next=/&password=a+b%26%2B").unwrap().password, b"a b&+");
        for bad in ["", "next=/", "password", "password=%zz", "password=a&other=b"] {
            assert!(Form::read(bad).is_none(), "{bad}");
        }
        assert_eq!(escaped("/?\"><b>&"), "/?&quot;&gt;&lt;b&gt;&amp;");
    }
}
