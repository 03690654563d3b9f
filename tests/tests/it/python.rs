//! The Python client of docs/reference/grpc.md, as it stands there, against a node.

use std::{path::Path, time::Duration};

use colony_tests::{Checkout, Folder, Node, Packages, skipped};

/// grpcio and its compiler of stubs. The stubs say which grpcio they need at least.
const GRPC: [&str; 2] = ["grpcio==1.85.3", "grpcio-tools==1.85.1"];
/// pip fetches 38 MB.
const FETCH_WITHIN: Duration = Duration::from_secs(180);
/// For a few calls on a machine that builds at the same time.
const SOON: Duration = Duration::from_secs(90);

/// The page's Python.
fn client(checkout: &Checkout) -> String {
    let page = checkout.text("docs/reference/grpc.md").unwrap();
    let blocks: Vec<&str> = page.split("```python\n").skip(1).collect();
    assert_eq!(blocks.len(), 1, "blocks of Python on the page");
    blocks[0].split("```").next().unwrap().to_owned()
}

#[test]
fn the_python_client_of_the_page_works() {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let grpc = match Packages::fetch(kept, "grpc", &GRPC, FETCH_WITHIN) {
        Ok(grpc) => grpc,
        Err(why) => {
            skipped(format!("no grpcio for the Python client: {why:#}"));
            return;
        }
    };
    let checkout = Checkout::here().unwrap();
    let folder = Folder::new().unwrap();
    let protos = checkout.root().join("proto");
    let mut make = grpc.python(&[]);
    make.args(["-m", "grpc_tools.protoc", "-I"])
        .arg(&protos)
        .arg(format!("--python_out={}", folder.path().display()))
        .arg(format!("--grpc_python_out={}", folder.path().display()));
    for file in checkout.ending(&[".proto"]) {
        if let Some(api) = file.strip_prefix("proto/colony/v1/") {
            make.arg(protos.join("colony/v1").join(api));
        }
    }
    grpc.run(make, SOON).unwrap();
    let code = folder.file("client.py", &client(&checkout)).unwrap();

    let node = Node::start(&folder, &[]).unwrap();
    let mut python = grpc.python(&[folder.path()]);
    python
        .arg(code)
        .args([node.address(), "my badge does not open the gate", "badges"]);
    let said = grpc.run(python, SOON).unwrap().stdout;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 4, "{said}");
    assert!(lines[0].starts_with("submitted "), "{said}");
    assert!(lines[1].starts_with("asked "), "{said}");
    assert_eq!(lines[2], "answered badges", "{said}");
    assert!(
        lines[3].starts_with("delivered ") && lines[3].ends_with(" badges"),
        "{said}"
    );

    let task = lines[0].trim_start_matches("submitted ");
    let task = node.json(&["task", "get", task]).unwrap().remove(0);
    assert_eq!(task["state"], "done", "{task}");
    let left = node.json(&["outbox", "list"]).unwrap();
    assert!(left.is_empty(), "delivered and acknowledged: {left:?}");
    assert!(node.stop().unwrap().success());
}
