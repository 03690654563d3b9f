//! Beginnings that many prompts share, read once.

/// Caches of a few recent beginnings; the one not used for longest goes first.
#[derive(Debug)]
pub(super) struct PrefixCache<C> {
    /// Most recently used last.
    kept: Vec<(Vec<u32>, C)>,
    prefixes_max: usize,
    tokens_max: usize,
}

impl<C> PrefixCache<C> {
    /// At most `prefixes_max` beginnings with `tokens_max` tokens together.
    pub(super) fn new(prefixes_max: usize, tokens_max: usize) -> Self {
        Self {
            kept: Vec::new(),
            prefixes_max,
            tokens_max,
        }
    }

    /// Whether a beginning of so many tokens would be kept. Depends on nothing else: a prompt is
    /// always read in the same pieces, be its beginning here or not, so that its answer cannot
    /// depend on who came before.
    pub(super) fn keeps(&self, tokens: usize) -> bool {
        self.prefixes_max > 0 && tokens <= self.tokens_max
    }

    /// The cache of exactly these tokens.
    pub(super) fn find(&mut self, tokens: &[u32]) -> Option<&C> {
        let found = self.kept.iter().position(|(known, _)| known == tokens)?;
        let found = self.kept.remove(found);
        self.kept.push(found);
        self.kept.last().map(|(_, cache)| cache)
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
    }

    /// Keeps a beginning, at the cost of older ones.
    pub(super) fn keep(&mut self, tokens: &[u32], cache: C) {
        if !self.keeps(tokens.len()) {
            return;
        }
        let total = |kept: &Vec<(Vec<u32>, C)>| -> usize {
            kept.iter().map(|(tokens, _)| tokens.len()).sum()
        };
        while !self.kept.is_empty()
            && (self.kept.len() >= self.prefixes_max
                || total(&self.kept) + tokens.len() > self.tokens_max)
        {
            self.kept.remove(0);
        }
        self.kept.push((tokens.to_vec(), cache));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_one_not_used_for_longest_goes_first() {
        let mut prefix_cache = PrefixCache::new(2, 100);
        prefix_cache.keep(&[1], 'a');
        prefix_cache.keep(&[2], 'b');
        assert_eq!(prefix_cache.find(&[1]), Some(&'a'));
        prefix_cache.keep(&[3], 'c');
        assert_eq!(prefix_cache.find(&[1]), Some(&'a'));
        assert_eq!(prefix_cache.find(&[2]), None);
        assert_eq!(prefix_cache.find(&[3]), Some(&'c'));
    }

    #[test]
    fn the_tokens_kept_are_bounded() {
        let mut prefix_cache = PrefixCache::new(9, 4);
        prefix_cache.keep(&[1, 1], ());
        prefix_cache.keep(&[2, 2, 2], ());
        prefix_cache.keep(&[3, 3, 3, 3, 3], ());
        assert!(prefix_cache.find(&[1, 1]).is_none() && prefix_cache.find(&[2, 2, 2]).is_some());
        assert!(!prefix_cache.keeps(5) && prefix_cache.keeps(4));
        assert!(!PrefixCache::<()>::new(0, 4).keeps(1));
    }
}
