//! SHA-256 of files and bytes, as the catalog and the manifests spell it.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::manifest::FileDigest;

/// Size of one read while hashing: large enough to be disk-bound, small enough for any stack.
const CHUNK_BYTES: usize = 1 << 18;

pub(crate) fn digest_bytes(content: &[u8]) -> FileDigest {
    let sha256 = hex::encode(Sha256::digest(content));
    FileDigest {
        bytes: content.len() as u64,
        sha256,
    }
}

pub(crate) fn digest_file(path: &Path) -> io::Result<FileDigest> {
    let mut file = File::open(path)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut hash = Sha256::new();
    let mut bytes = 0;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok(FileDigest {
                bytes,
                sha256: hex::encode(hash.finalize()),
            });
        }
        hash.update(&chunk[..read]);
        bytes += read as u64;
    }
}
