//! A response of HTTP/1.1 with a declared length, as the load's clients read it.
//!
//! Not here: what a good response contains (`sql_rates.rs`, `front_rates.rs`).

pub struct HttpReply<'a> {
    pub length: usize,
    /// Without the version.
    pub status: &'a str,
    pub body: &'a [u8],
}

/// The first whole response in `input`; `None`: more bytes are needed.
///
/// # Errors
/// It is not HTTP, or has no length.
pub fn read(input: &[u8]) -> Result<Option<HttpReply<'_>>, String> {
    let Some(head) = input.windows(4).position(|four| four == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&input[..head]).map_err(|_| "a response head that is not text".to_string())?;
    let status = text.lines().next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
    let status = status.ok_or_else(|| format!("not HTTP: {text:?}"))?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    let end = head + 4 + length.ok_or("an answer without Content-Length")?;
    Ok(input.get(head + 4..end).map(|body| HttpReply { length: end, status, body }))
}
