//! What no error tells: passwords of sources.

use std::cell::RefCell;

thread_local! {
    /// Passwords of sources that this backend has connected to.
    static SECRETS: RefCell<Vec<Secret>> = const { RefCell::new(Vec::new()) };
}

struct Secret {
    password: String,
    /// A source, or libpq, has said it although nobody had told it with a statement. Only then it is taken out of what is told:
    /// else a caller could read from his own words, put into an error, which of them is a password.
    said: bool,
}

/// No error tells what a source says of this from here on. A shorter one could be told from what is missing.
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

/// A source, or libpq, has said this text. `asked` is what it was sent before: words that stand there too are not its own.
pub fn heard(text: &str, asked: impl Fn(&str) -> bool) {
    SECRETS.with_borrow_mut(|secrets| {
        for secret in secrets.iter_mut().filter(|secret| !secret.said) {
            secret.said = text.contains(&secret.password) && !asked(&secret.password);
        }
    });
}

/// A source can say as much as it likes; the log and run_history take so many bytes of it.
const LONGEST: usize = 32 * 1024;

/// A text as it can be told: no password that a source has said, and not too long.
pub fn told(text: String) -> String {
    let hide = |text: String, secret: &Secret| text.replace(secret.password.as_str(), "********");
    let mut text = SECRETS.with_borrow(|secrets| secrets.iter().filter(|secret| secret.said).fold(text, hide));
    if text.len() > LONGEST {
        text.truncate((0..=LONGEST).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default());
        text.push('…');
    }
    text
}
