//! Pages that fit: an answer is cut before it is larger than what clients take.

use colony_store::Page;
use prost::Message;

/// What gRPC clients take unless told otherwise is 4 MiB; this leaves room for the rest of an answer.
pub(super) const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024 - 64 * 1024;
/// Tag and length of one item in a repeated field, at most.
const FRAME_BYTES: usize = 8;

/// Takes items while all of them together stay below `bytes_max`, and one at least. `more` says whether there
/// are others behind them.
pub(super) fn fit<T: Message>(
    items: impl Iterator<Item = T>,
    more: bool,
    bytes_max: usize,
) -> Page<T> {
    let mut page = Page {
        items: Vec::new(),
        more,
    };
    let mut bytes = 0;
    for item in items {
        bytes += item.encoded_len() + FRAME_BYTES;
        if bytes > bytes_max && !page.items.is_empty() {
            page.more = true;
            break;
        }
        page.items.push(item);
    }
    page
}

/// What asks for the page after this one: the token of its last item, or nothing when it is the last page.
pub(super) fn next_token<T>(page: &Page<T>, token: impl FnOnce(&T) -> String) -> String {
    let last = page.items.last().filter(|_| page.more);
    last.map(token).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(count: usize) -> impl Iterator<Item = String> {
        std::iter::repeat_n("x".repeat(100), count)
    }

    #[test]
    fn a_page_ends_before_it_is_too_large_and_holds_one_item_at_least() {
        let page = fit(texts(10), false, 350);
        assert_eq!((page.items.len(), page.more), (3, true));
        let page = fit(texts(3), false, 350);
        assert_eq!((page.items.len(), page.more), (3, false));
        let page = fit(texts(3), true, 350);
        assert_eq!((page.items.len(), page.more), (3, true));
        let page = fit(texts(2), false, 50);
        assert_eq!((page.items.len(), page.more), (1, true));
    }

    #[test]
    fn the_last_page_asks_for_no_other() {
        let page = fit(texts(1), true, 350);
        assert_eq!(next_token(&page, String::clone), page.items[0]);
        let page = fit(texts(1), false, 350);
        assert_eq!(next_token(&page, String::clone), "");
    }
}
