//! What a node leaves open to others: its folder to the users of the machine, its port to the network.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::Path,
};

use colony_node::Config;

/// Read, write and enter, for the owner alone.
const OWNER_ONLY: u32 = 0o700;

/// Makes the data folder where it is missing, for its owner alone; one that is there keeps its mode, with a warning
/// if others may look into it.
///
/// # Errors
/// When it cannot be made or looked at.
pub(crate) fn private_folder(folder: &Path) -> io::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(OWNER_ONLY)
        .create(folder)?;
    let mode = fs::metadata(folder)?.permissions().mode() & 0o777;
    if mode & !OWNER_ONLY != 0 {
        let folder = folder.display();
        tracing::warn!(%folder, mode = format!("{mode:o}"), "the data folder is open to other users: chmod 700 closes it");
    }
    Ok(())
}

/// What there is to say about addresses that others can reach.
pub(crate) fn exposures(config: &Config) -> Vec<String> {
    let listeners = [
        (Some(config.node.listen), "submit, decide and read"),
        (config.http.listen, "read its metrics"),
    ];
    let open = listeners.into_iter().filter_map(|(address, can)| {
        let address = address.filter(|address| !address.ip().to_canonical().is_loopback())?;
        Some(format!(
            "{address} is not a loopback address, and there is no authentication: whoever can reach it can {can}"
        ))
    });
    open.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_folder_is_its_owners_alone() {
        let base = tempfile::tempdir().expect("a temporary folder");
        let folder = base.path().join("a/b");
        private_folder(&folder).expect("it can be made");
        for folder in [folder.as_path(), &base.path().join("a")] {
            let mode = fs::metadata(folder)
                .expect("it is there")
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, OWNER_ONLY, "{}", folder.display());
        }
        // One that is there keeps its mode: others may be meant to read it.
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o750)).expect("a mode");
        private_folder(&folder).expect("it is there");
        let mode = fs::metadata(&folder)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o750);
    }

    #[test]
    fn only_loopback_goes_without_a_warning() {
        let said = |address: &str| {
            let mut config = Config::default();
            config.node.listen = address.parse().expect("an address");
            config.http.listen = Some(config.node.listen);
            exposures(&config)
        };
        for quiet in [
            "127.0.0.1:7400",
            "127.0.0.2:0",
            "[::1]:7400",
            "[::ffff:127.0.0.1]:1",
        ] {
            assert_eq!(said(quiet), Vec::<String>::new(), "{quiet}");
        }
        for open in [
            "0.0.0.0:7400",
            "[::]:7400",
            "192.168.1.5:7400",
            "[fe80::1]:7400",
        ] {
            assert_eq!(said(open).len(), 2, "{open}");
        }
    }
}
