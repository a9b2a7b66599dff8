//! Passwords of sources, which no error may show.

use std::cell::RefCell;

thread_local! {
    /// Passwords of sources that this backend has connected to.
    static SECRETS: RefCell<Vec<Secret>> = const { RefCell::new(Vec::new()) };
}

struct Secret {
    password: String,
    /// A source, or libpq, has sent it although no statement that was sent there contained it. Only then is it redacted:
    /// otherwise a caller could put guesses into an error, and see which of them is a password.
    said: bool,
}

/// From here on errors do not show this password if a source sends it. A shorter one could be guessed from what is redacted.
pub fn keep_secret(password: &str) {
    SECRETS.with_borrow_mut(|secrets| {
        if password.len() <= 3 {
            return;
        }
        match secrets.iter_mut().find(|secret| secret.password == password) {
            Some(secret) => secret.said = false,
            None => secrets.push(Secret { password: password.to_string(), said: false }),
        }
    });
}

/// A source, or libpq, has sent this text. `asked` tells whether what was sent to it before contained a password: then it only repeats that.
pub fn heard(text: &str, asked: impl Fn(&str) -> bool) {
    SECRETS.with_borrow_mut(|secrets| {
        for secret in secrets.iter_mut().filter(|secret| !secret.said) {
            secret.said = text.contains(&secret.password) && !asked(&secret.password);
        }
    });
}

/// Bytes of a text that go to the log and to run_history, at most: a source can send any amount.
const LONGEST: usize = 32 * 1024;

/// A text as errors may show it: without passwords that a source has sent, and not too long.
pub fn told(text: String) -> String {
    let hide = |text: String, secret: &Secret| text.replace(secret.password.as_str(), "********");
    let mut text = SECRETS.with_borrow(|secrets| secrets.iter().filter(|secret| secret.said).fold(text, hide));
    if text.len() > LONGEST {
        text.truncate((0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default());
        text.push('…');
    }
    text
}
