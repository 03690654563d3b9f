//! `colony explain`: the pages of docs/reference/errors, as they were when this binary was built.

use serde_json::json;

use crate::{
    errors::Failure,
    output::{self, Output},
};

/// The pages, each with its code.
macro_rules! pages {
    ($($code:literal),+ $(,)?) => {
        [$(($code, include_str!(concat!("../../../docs/reference/errors/", $code, ".md")))),+]
    };
}

/// Every page, in order.
const PAGES: [(&str, &str); 34] = pages![
    "CLY0001", "CLY0002", "CLY0003", "CLY0004", "CLY0005", "CLY0006", "CLY0007", "CLY0008",
    "CLY0009", "CLY0010", "CLY0011", "CLY0012", "CLY0013", "CLY0014", "CLY0015", "CLY0016",
    "CLY0017", "CLY0018", "CLY0019", "CLY0020", "CLY0021", "CLY0022", "CLY0023", "CLY0024",
    "CLY0025", "CLY0026", "CLY0027", "CLY0028", "CLY0029", "CLY0030", "CLY0031", "CLY0032",
    "CLY0033", "CLY0034",
];

/// What there is to read about a code.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Page {
    code: &'static str,
    text: &'static str,
}

/// The page of a code, whatever its case.
pub(crate) fn page(code: &str) -> Option<Page> {
    let mut pages = PAGES.into_iter();
    let (code, text) = pages.find(|(known, _)| known.eq_ignore_ascii_case(code))?;
    Some(Page { code, text })
}

pub(crate) fn run(page: Page, out: Output) -> Result<(), Failure> {
    let text = page.text.trim_end();
    out.result(&json!({ "code": page.code, "page": text }), || {
        output::page(text)
    })
}

/// The codes that have a page.
pub(crate) fn codes() -> [&'static str; PAGES.len()] {
    PAGES.map(|(code, _)| code)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, fs, path::Path};

    use super::*;

    #[test]
    fn every_page_is_in_the_binary() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/errors");
        let files: BTreeSet<String> = fs::read_dir(folder)
            .expect("the folder of pages")
            .map(|entry| {
                entry
                    .expect("a page")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        let pages: BTreeSet<String> = codes().map(|code| format!("{code}.md")).into();
        assert_eq!(files, pages);
        for (code, page) in PAGES {
            assert!(page.starts_with(&format!("# {code}: ")), "{code}");
        }
    }
}
