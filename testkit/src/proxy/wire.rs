//! Postgres's wire protocol, as far as the proxy has to understand it: where a message ends, which
//! one is COMMIT, and when the server is ready again.
//!
//! PostgreSQL 15, chapter 55.7 "Message Formats". Used by the proxy alone.

use bytes::{Bytes, BytesMut};

/// The codes of first messages after which another first message follows: they ask for encryption.
const ENCRYPTION_REQUESTS: [u32; 2] = [80_877_103, 80_877_104];

/// Where the client's half of a conversation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Messages without a type: what the client wants at all.
    Opening,
    /// Messages with one.
    Talking,
}

/// Takes the next whole message of a client out of `buffer`.
pub(super) fn from_client(buffer: &mut BytesMut, stage: &mut Stage) -> Option<Bytes> {
    match stage {
        Stage::Opening => {
            let length = usize::try_from(number(buffer, 0)?).ok()?;
            let code = number(buffer, 4)?;
            if buffer.len() < length {
                return None;
            }
            if !ENCRYPTION_REQUESTS.contains(&code) {
                *stage = Stage::Talking;
            }
            Some(buffer.split_to(length).freeze())
        }
        Stage::Talking => typed(buffer),
    }
}

/// Takes the next whole message with a type out of `buffer`.
pub(super) fn typed(buffer: &mut BytesMut) -> Option<Bytes> {
    let length = usize::try_from(number(buffer, 1)?).ok()? + 1;
    (buffer.len() >= length).then(|| buffer.split_to(length).freeze())
}

/// Whether a client's message is the simple query COMMIT.
pub(super) fn is_commit(message: &[u8]) -> bool {
    let [b'Q', _, _, _, _, text @ .., 0] = message else { return false };
    text.trim_ascii_end().strip_suffix(b";").unwrap_or(text).trim_ascii().eq_ignore_ascii_case(b"COMMIT")
}

/// Whether a server's message is ReadyForQuery.
pub(super) fn is_ready(message: &[u8]) -> bool {
    message.first() == Some(&b'Z')
}

fn number(buffer: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(buffer.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len() + 5).expect("short").to_be_bytes();
        [&b"Q"[..], &length, text.as_bytes(), b"\0"].concat()
    }

    #[test]
    fn messages_are_cut_where_they_end() {
        let ssl = [8u32.to_be_bytes(), 80_877_103u32.to_be_bytes()].concat();
        let hello = [12u32.to_be_bytes(), 196_608u32.to_be_bytes(), *b"user"].concat();
        let all = [ssl.clone(), hello.clone(), query("BEGIN"), query("COMMIT")].concat();
        for split in 0..all.len() {
            let (mut buffer, mut stage, mut found) = (BytesMut::from(&all[..split]), Stage::Opening, Vec::new());
            for rest in [&b""[..], &all[split..]] {
                buffer.extend_from_slice(rest);
                while let Some(message) = from_client(&mut buffer, &mut stage) {
                    found.push(message);
                }
            }
            assert_eq!(found, [ssl.clone(), hello.clone(), query("BEGIN"), query("COMMIT")], "split at {split}");
        }
    }

    #[test]
    fn a_commit_is_one_however_it_is_written() {
        for text in ["COMMIT", "commit;", " Commit ; "] {
            assert!(is_commit(&query(text)), "{text:?}");
        }
        for text in ["COMMIT PREPARED 'x'", "ROLLBACK", "SELECT 'COMMIT'"] {
            assert!(!is_commit(&query(text)), "{text:?}");
        }
        assert!(is_ready(b"Z\0\0\0\x05I") && !is_ready(b"C"));
    }
}
