//! A node begins a life.

use std::collections::BTreeSet;

use colony_core::{
    id::{Incarnation, NodeId},
    ledger::settle,
};
use rusqlite::params;

use super::{Done, WriteTxn};
use crate::{
    ledger::{Others, Registered},
    sqlite::{
        ready::NodeRow,
        row,
        select::{HELD_BEFORE, HELD_BY_OTHERS, LAST_LIFE},
        tables::{LIVE, NODES, columns, select},
        value::Number,
    },
};

impl WriteTxn<'_> {
    pub(in crate::sqlite) fn register(
        &mut self,
        node: &NodeId,
        others: Others,
    ) -> Done<Registered> {
        let incarnation = Incarnation(self.former_life(node)? + 1);
        let batch = None;
        self.cache.nodes.set(node, NodeRow { incarnation, batch });
        self.write_node(node)?;
        let mut held = LIVE.all(
            self.db,
            HELD_BEFORE,
            params![node.as_str(), Number(incarnation.0)],
            row::live,
        )?;
        match others {
            Others::Nodes => {}
            Others::Nobody => {
                held.extend(LIVE.all(self.db, HELD_BY_OTHERS, [node.as_str()], row::live)?)
            }
        }
        let mut lost = Vec::with_capacity(held.len());
        let mut adopted = BTreeSet::new();
        let mut suspects = Vec::new();
        let mut held = self.readable(held)?;
        held.sort_unstable_by_key(|head| head.id);
        for head in held {
            let transition = settle::lose(&head, self.now);
            self.apply(&head, &transition)?;
            lost.push(head.id);
            adopted.extend(head.holder.map(|holder| holder.node));
            if let Some(after) = transition.head
                && after.is_suspect(self.policy)
            {
                suspects.push(after.id);
            }
        }
        adopted.remove(node);
        Ok(Registered {
            incarnation,
            lost,
            adopted: adopted.into_iter().collect(),
            suspects,
        })
    }

    /// The last life of a node, 0 for a new one.
    fn former_life(&mut self, node: &NodeId) -> Done<u64> {
        if let Some(row) = self.cache.nodes.get(node) {
            return Ok(row.incarnation.0);
        }
        let sql = concat!(select!(nodes), " WHERE name = ?1");
        if let Some(Err(damage)) = NODES.one(self.db, sql, [node.as_str()], row::node)? {
            self.note(&damage)?;
            return Ok(settle::above_all_counts(self.now));
        }
        // Its row may be lost; its claims must not be.
        let held: Option<Number> = self
            .db
            .query_row(LAST_LIFE, [node.as_str()], |row| row.get(0))?;
        Ok(held.map_or(0, |held| held.0))
    }
}
