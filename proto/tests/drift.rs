//! The checked-in code is what the `.proto` files say.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Every `.proto` file under `folder`, in order.
fn protos(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(protos(&path));
        } else if path.extension().is_some_and(|e| e == "proto") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every file of `folder` by name; none if there is no such folder.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder) else {
        return BTreeMap::new();
    };
    entries
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read(entry.path()).unwrap())
        })
        .collect()
}

fn generate(root: &Path, into: &Path) {
    let mut config = tonic_prost_build::Config::new();
    config.protoc_executable(protoc_bin_vendored::protoc_bin_path().unwrap());
    config.btree_map(["."]);
    tonic_prost_build::configure()
        .out_dir(into)
        .include_file("tree.rs")
        .file_descriptor_set_path(into.join("descriptor.bin"))
        .emit_rerun_if_changed(false)
        .compile_with_config(config, &protos(&root.join("colony")), &[root.to_path_buf()])
        .unwrap();
}

#[test]
fn the_generated_code_fits_the_proto_files() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let kept = root.join("src/gen");
    let fresh = tempfile::tempdir().unwrap();
    generate(root, fresh.path());
    let fresh = files(fresh.path());
    if std::env::var_os("COLONY_REGENERATE").is_some() {
        fs::create_dir_all(&kept).unwrap();
        for name in files(&kept).keys() {
            fs::remove_file(kept.join(name)).unwrap();
        }
        for (name, content) in &fresh {
            fs::write(kept.join(name), content).unwrap();
        }
    }
    let kept = files(&kept);
    let names: Vec<_> = kept.keys().collect();
    assert_eq!(names, fresh.keys().collect::<Vec<_>>());
    for (name, content) in &fresh {
        assert!(
            kept.get(name) == Some(content),
            "{name} no longer fits the .proto files; run COLONY_REGENERATE=1 cargo test -p colony-proto --test drift"
        );
    }
}
