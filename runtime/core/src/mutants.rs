//! Faults put back on purpose, to see that the tests find them.
//!
//! A *mutant* is a fault that the product once had, or that products of its kind have; where it was
//! mended, `mutant!(Name)` is true while that mutant is active on this thread. Without the feature `mutants`
//! it is `false` at compile time and leaves nothing behind; no build that serves anybody has the feature.
//! One mutant at a time and one thread for a whole simulated world, so several are tried side by side.
//! docs/evidence/mutants.md says what finds each.

/// Whether this mutant is active here: `false`, but in a test of the tests.
#[macro_export]
macro_rules! mutant {
    ($name:ident) => {
        $crate::mutants::is_active($crate::mutants::Mutant::$name)
    };
}

macro_rules! mutants {
    ($($(#[doc = $what:literal])+ $name:ident,)+) => {
        /// The faults.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutant {
            $($(#[doc = $what])+ $name,)+
        }

        impl Mutant {
            /// Every one.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// Its name.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                }
            }

            /// What is wrong while it is active.
            #[must_use]
            pub fn what(self) -> String {
                match self {
                    $(Self::$name => concat!($($what),+).trim().to_owned(),)+
                }
            }
        }
    };
}

mutants! {
    /// A claim's slots are dealt out in the order of the queues' names.
    C1,
    /// The market is woken by the caller of a submit or decide, who may have left.
    C2,
    /// A claim that failed is never tried again.
    C3,
    /// What becomes claimable while a claim is under way is missed.
    C4,
    /// A node's death counts as a failed attempt.
    C6,
    /// A model that is away counts as a failed attempt.
    C7,
    /// A step that panics ends its agent, and the type when it comes again.
    C9,
    /// Effects are named by their place in the journal.
    C11,
    /// Numbers lose their last digit in the journal.
    C12,
    /// A restored memory forgets labels with the episodes that no longer fit.
    C13,
    /// What a task taught is written down beside its end, not with it.
    C14,
    /// The ledger's time is the wall clock's, wherever that was set to.
    C20,
    /// An orderly stop counts as a failed attempt.
    C21,
    /// Messages of one effect are all the first.
    C24,
    /// A learn step that fails fails its task.
    C25,
    /// A submit is acknowledged before it is synced.
    AckBeforeSync,
    /// Whoever once held a claim may settle it.
    NoFence,
    /// A deduplication key is not looked for.
    NoDedupe,
    /// A decision wakes nobody.
    LostWakeUp,
    /// The second decision counts.
    DoubleDecide,
    /// A late copy of a claim takes tasks.
    StaleClaim,
    /// A claim does not raise the fence.
    SameFence,
    /// A commit that is repeated is appended again.
    AppendTwice,
    /// A commit that the disk refused is not sent again.
    CommitOnce,
    /// An agent whose claim is lost does not say that it is free.
    SilentRelease,
    /// A step that was given up is still heard when it ends.
    LateStep,
    /// A revived task keeps the deadline that has passed.
    OldDeadline,
    /// A claim's slots go to idle agents, whether there are tasks for them or not.
    IdleSlots,
    /// Nobody hears that the ledger has failed.
    DeafNode,
}

impl std::fmt::Display for Mutant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(feature = "mutants")]
std::thread_local! {
    static ACTIVE: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Makes a mutant, and no other, active on this thread; none: the product as it is.
#[cfg(feature = "mutants")]
pub fn activate(mutant: Option<Mutant>) {
    ACTIVE.set(mutant);
}

/// See [`mutant!`].
#[cfg(feature = "mutants")]
#[must_use]
pub fn is_active(mutant: Mutant) -> bool {
    ACTIVE.get() == Some(mutant)
}

/// See [`mutant!`].
#[cfg(not(feature = "mutants"))]
#[must_use]
pub const fn is_active(_: Mutant) -> bool {
    false
}
