//! Files of JSON lines that people hand in, read line by line: no size of a file or of a line fills memory.

use std::{
    fmt,
    io::{self, BufRead, Read as _},
};

/// Longest line that is read, in bytes: a text of 64 KiB whose every byte is escaped (`\u0000`), and what goes
/// with it.
pub(crate) const LINE_BYTES_MAX: u64 = 1024 * 1024;

/// What some editors begin a file with.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Why a line cannot be had. Nothing after it is read.
#[derive(Debug)]
pub(crate) enum LineFault {
    /// The file failed.
    Unreadable(io::Error),
    /// It is no file of lines, or a wrong one.
    Long,
}

impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(error) => write!(f, "cannot be read: {error}"),
            Self::Long => write!(f, "longer than {LINE_BYTES_MAX} bytes"),
        }
    }
}

/// The lines of a file with their numbers, from 1. Blank ones are passed over and counted, and so is a byte
/// order mark. Ends after a fault.
#[derive(Debug)]
pub(crate) struct Lines<R> {
    from: R,
    number: usize,
    ended: bool,
}

impl<R: BufRead> Lines<R> {
    pub(crate) const fn new(from: R) -> Self {
        Self {
            from,
            number: 0,
            ended: false,
        }
    }

    /// The next line, blank or not; empty at the end.
    fn read(&mut self) -> Result<Vec<u8>, LineFault> {
        self.number += 1;
        let mut line = Vec::new();
        let mut rest = self.from.by_ref().take(LINE_BYTES_MAX + 1);
        rest.read_until(b'\n', &mut line)
            .map_err(LineFault::Unreadable)?;
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(LineFault::Long);
        }
        if self.number == 1 && line.starts_with(BYTE_ORDER_MARK) {
            line.drain(..BYTE_ORDER_MARK.len());
            // Alone on its line without an end, it is not the end of the file yet.
            if line.is_empty() {
                line.push(b'\n');
            }
        }
        Ok(line)
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = (usize, Result<Vec<u8>, LineFault>);

    fn next(&mut self) -> Option<Self::Item> {
        while !self.ended {
            let line = self.read();
            self.ended = line.as_ref().map_or(true, Vec::is_empty);
            let is_blank = |line: &Vec<u8>| line.trim_ascii().is_empty();
            if !line.as_ref().is_ok_and(is_blank) {
                return Some((self.number, line));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lines of a file; a fault as its words.
    fn read(file: &[u8]) -> Vec<(usize, String)> {
        let lines = Lines::new(file).map(|(number, line)| match line {
            Ok(line) => (number, String::from_utf8(line).expect("text")),
            Err(fault) => (number, fault.to_string()),
        });
        lines.collect()
    }

    #[test]
    fn lines_have_their_numbers_and_blank_ones_are_passed_over() {
        let found = read("\u{feff}a\r\n\n \t\n b\n\u{e9}".as_bytes());
        let expected = [(1, "a\r\n"), (4, " b\n"), (5, "\u{e9}")];
        assert_eq!(found, expected.map(|(n, line)| (n, line.to_owned())));
        assert_eq!(read("\u{feff}".as_bytes()), []);
        assert_eq!(read(b""), []);
    }

    #[test]
    fn an_endless_line_is_not_swallowed_and_nothing_after_it_is_read() {
        let file = [b"a\n", &vec![b'x'; 2 * 1024 * 1024][..], b"\nb\n"].concat();
        let found = read(&file);
        let long = "longer than 1048576 bytes".to_owned();
        assert_eq!(found, [(1, "a\n".to_owned()), (2, long)]);
    }
}
