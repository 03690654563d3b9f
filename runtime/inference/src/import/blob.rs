//! The file beside the graph that holds the weights, written once from front to back.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

use super::onnx::{ElementType, Entry, TensorProto, dim};
use crate::manifest::FileDigest;

/// ONNX Runtime maps weights into memory instead of copying them where they start on a page.
const ALIGNMENT_BYTES: u64 = 4096;

/// `TensorProto.DataLocation.EXTERNAL`.
const EXTERNAL: i32 = 1;

/// An open weights file.
#[derive(Debug)]
pub(super) struct Blob {
    name: String,
    out: BufWriter<File>,
    hash: Sha256,
    bytes: u64,
}

impl Blob {
    pub(super) fn create(dir: &Path, name: &str) -> io::Result<Self> {
        let out = BufWriter::with_capacity(1 << 20, File::create_new(dir.join(name))?);
        Ok(Self {
            name: name.to_owned(),
            out,
            hash: Sha256::new(),
            bytes: 0,
        })
    }

    /// Appends bytes and returns the initializer that points at them.
    pub(super) fn bytes(
        &mut self,
        name: &str,
        element: ElementType,
        dims: &[usize],
        content: &[u8],
    ) -> io::Result<TensorProto> {
        let padding = self.bytes.next_multiple_of(ALIGNMENT_BYTES) - self.bytes;
        let zeros = [0; 4096];
        self.write(&zeros[..usize::try_from(padding).expect("less than a page")])?;
        let offset = self.bytes;
        self.write(content)?;
        let entry = |key: &str, value: String| Entry {
            key: key.to_owned(),
            value,
        };
        Ok(TensorProto {
            name: name.to_owned(),
            data_type: element as i32,
            dims: dims.iter().copied().map(dim).collect(),
            data_location: Some(EXTERNAL),
            external_data: vec![
                entry("location", self.name.clone()),
                entry("offset", offset.to_string()),
                entry("length", content.len().to_string()),
            ],
            ..TensorProto::default()
        })
    }

    /// Appends fp32 values.
    pub(super) fn floats(
        &mut self,
        name: &str,
        dims: &[usize],
        values: &[f32],
    ) -> io::Result<TensorProto> {
        let content: Vec<u8> = values
            .iter()
            .flat_map(|value| value.to_le_bytes())
            .collect();
        self.bytes(name, ElementType::F32, dims, &content)
    }

    fn write(&mut self, content: &[u8]) -> io::Result<()> {
        self.hash.update(content);
        self.bytes += content.len() as u64;
        self.out.write_all(content)
    }

    /// Makes the file durable and returns its identity.
    pub(super) fn finish(self) -> io::Result<FileDigest> {
        self.out.into_inner()?.sync_all()?;
        Ok(FileDigest {
            bytes: self.bytes,
            sha256: hex::encode(self.hash.finalize()),
        })
    }
}
