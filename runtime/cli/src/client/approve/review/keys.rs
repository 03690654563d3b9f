//! Single keys from the terminal, and the line that is being written.

use std::io::{self, Read as _, Write as _};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};

use super::session::Key;
use crate::{errors::Failure, output::clean};

/// The terminal with single keys: nothing is echoed, and a key needs no Enter. It is as it was when this is dropped.
#[derive(Debug)]
pub(super) struct Keys {
    before: Termios,
}

impl Keys {
    pub(super) fn open() -> Result<Self, Failure> {
        let wrong = |error: rustix::io::Errno| {
            Failure::failed(format!(
                "cannot read single keys from the terminal: {error}"
            ))
        };
        let before = tcgetattr(io::stdin()).map_err(wrong)?;
        let mut single = before.clone();
        single
            .local_modes
            .remove(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG);
        single.special_codes[SpecialCodeIndex::VMIN] = 1;
        single.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Now, &single).map_err(wrong)?;
        Ok(Self { before })
    }

    /// Waits for the next key; none when the terminal has gone.
    pub(super) fn next(&mut self) -> Result<Option<Key>, Failure> {
        loop {
            let Some(first) = byte()? else {
                return Ok(None);
            };
            let key = match first {
                b'\r' | b'\n' => Key::Enter,
                b'\t' => Key::Tab,
                0x08 | 0x7f => Key::Backspace,
                0x1b => Key::Escape,
                // Ctrl-C and Ctrl-D.
                0x03 | 0x04 => Key::Interrupt,
                0x00..0x20 => continue,
                first => match letter(first)? {
                    Some(letter) => Key::Char(letter),
                    None => continue,
                },
            };
            return Ok(Some(key));
        }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        // A terminal that has gone needs no care.
        let _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The letter that begins with this byte of UTF-8; none when it is none.
fn letter(first: u8) -> Result<Option<char>, Failure> {
    let mut bytes = vec![first];
    let length = match first {
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        0xf0.. => 4,
        _ => 1,
    };
    while bytes.len() < length {
        match byte()? {
            Some(next) => bytes.push(next),
            None => return Ok(None),
        }
    }
    let text = std::str::from_utf8(&bytes);
    Ok(text.ok().and_then(|text| text.chars().next()))
}

fn byte() -> Result<Option<u8>, Failure> {
    let mut byte = [0];
    match io::stdin().lock().read(&mut byte) {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(byte[0])),
        Err(error) => Err(Failure::failed(format!(
            "cannot read the terminal: {error}"
        ))),
    }
}

/// Shows the line that is being written, in place of what stood on it.
pub(super) fn prompt(text: &str) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = write!(stdout, "\r\u{1b}[K{}", clean(text)).and_then(|()| stdout.flush());
    written.map_err(|error| Failure::failed(format!("cannot write to the terminal: {error}")))
}
