//! HTTP on Unix sockets, as bytes: requests that no library would send, too.

use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::Value;

use crate::patience;

/// Longer than any answer may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// What came back.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// The body; `null` if it is empty or no JSON.
    pub body: Value,
    /// The body as it came.
    pub text: String,
}

/// Sends a request, and reads the answer until the other side closes the connection.
pub fn exchange(socket: &Path, request: &[u8]) -> io::Result<Response> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(patience(TIMEOUT)))?;
    stream.set_write_timeout(Some(patience(TIMEOUT)))?;
    // Who refuses a body that is too long may answer, and close, before all of it was sent.
    let sent = stream.write_all(request);
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    match parse(&bytes) {
        Some(response) => Ok(response),
        None => Err(sent.and(read).err().unwrap_or_else(|| {
            io::Error::other(format!("no HTTP: {:?}", String::from_utf8_lossy(&bytes)))
        })),
    }
}

/// Sends a request with a body, and no `Content-Type`, as Docker does.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Response> {
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: \r\nUser-Agent: Go-http-client/1.1\r\n\
         Content-Length: {}\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
         Connection: close\r\n\r\n",
        body.len()
    );
    exchange(socket, &[head.as_bytes(), body].concat())
}

/// Reads an answer: a head, and a body as it is, by its length or in chunks.
fn parse(bytes: &[u8]) -> Option<Response> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
    let status = head.strip_prefix("http/1.")?.split(' ').nth(1)?.parse().ok()?;
    let body = &bytes[end + 4..];
    let chunked = head.lines().any(|line| line == "transfer-encoding: chunked");
    let body = if chunked { unchunk(body)? } else { body.to_vec() };
    let text = String::from_utf8_lossy(&body).into_owned();
    Some(Response { status, body: serde_json::from_str(&text).unwrap_or_default(), text })
}

fn unchunk(mut rest: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = rest.windows(2).position(|two| two == b"\r\n")?;
        let length = std::str::from_utf8(&rest[..end]).ok()?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        if length == 0 {
            return Some(body);
        }
        body.extend(rest.get(end + 2..end + 2 + length)?);
        rest = rest.get(end + 4 + length..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_by_length_and_in_chunks() {
        let cases = [
            ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", Some((200, "{}"))),
            (
                "HTTP/1.1 500 Oh\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"E\r\na\r\nrr\": \"x\"} \r\n0\r\n\r\n",
                Some((500, "{\"Err\": \"x\"} ")),
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", Some((204, ""))),
            ("SSH-2.0", None),
        ];
        for (bytes, expected) in cases {
            let got = parse(bytes.as_bytes()).map(|answer| (answer.status, answer.text));
            let expected = expected.map(|(status, text)| (status, text.to_owned()));
            assert_eq!(got, expected, "{bytes:?}");
        }
    }
}
