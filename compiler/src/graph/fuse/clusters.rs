//! Sets of nodes that grow by merging and never make a cycle.
//!
//! Every node starts as a cluster of its own. The clusters, each taken as one node, always form an acyclic graph, and a topological order
//! of them is kept at hand: a merge is refused if a path leaves one cluster and enters the other through a third, because no order of
//! kernels could then run them. Checking each cluster for convexity alone would not be enough: two convex clusters can feed each other.
//!
//! The order makes the check local: only clusters that stand between the two can lie on such a path. This is the window search of
//! Pearce and Kelly, "A dynamic topological sort algorithm for directed acyclic graphs" (2006), for contraction in place of insertion.

/// Identifies a cluster: the position of its first node.
pub type Cluster = usize;

/// Disjoint sets of the nodes `0..n` of a directed acyclic graph.
pub struct Clusters {
    /// Users of each node.
    users: Vec<Vec<usize>>,
    cluster_of: Vec<Cluster>,
    /// Nodes of each cluster, ascending; empty for one that was merged into another.
    members: Vec<Vec<usize>>,
    /// The clusters in topological order, with holes where merged ones stood.
    order: Vec<Option<Cluster>>,
    position: Vec<usize>,
}

impl Clusters {
    /// One cluster for each node. `users[i]` lists the nodes that use node `i`, all of them above `i`.
    pub fn new(users: Vec<Vec<usize>>) -> Self {
        let count = users.len();
        debug_assert!(users.iter().enumerate().all(|(node, users)| users.iter().all(|user| *user > node)));
        Clusters {
            users,
            cluster_of: (0..count).collect(),
            members: (0..count).map(|node| vec![node]).collect(),
            order: (0..count).map(Some).collect(),
            position: (0..count).collect(),
        }
    }

    /// The cluster that holds `node`.
    pub fn of(&self, node: usize) -> Cluster {
        self.cluster_of[node]
    }

    /// The nodes of a cluster, ascending.
    pub fn members(&self, cluster: Cluster) -> &[usize] {
        &self.members[cluster]
    }

    /// The clusters in an order in which each comes after all that it uses.
    pub fn in_order(&self) -> impl Iterator<Item = Cluster> + '_ {
        self.order.iter().flatten().copied()
    }

    /// Makes one cluster of two and gives its name.
    ///
    /// # Errors
    /// A third cluster, returned, lies on a path between them.
    pub fn merge(&mut self, one: Cluster, other: Cluster) -> Result<Cluster, Cluster> {
        if one == other {
            return Ok(one);
        }
        let (first, last) = if self.position[one] < self.position[other] { (one, other) } else { (other, one) };
        let window = self.position[first]..self.position[last] + 1;

        // Everything between the two that the first leads to.
        let mut reached = vec![false; window.len()];
        let mut pending: Vec<Cluster> = self.users_of(first).filter(|user| *user != last).collect();
        while let Some(cluster) = pending.pop() {
            let position = self.position[cluster];
            if position >= window.end || std::mem::replace(&mut reached[position - window.start], true) {
                continue;
            }
            for user in self.users_of(cluster) {
                if user == last {
                    return Err(cluster);
                }
                pending.push(user);
            }
        }

        let kept = one.min(other);
        let gone = one.max(other);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for position in window.clone() {
            match self.order[position] {
                Some(cluster) if cluster == first || cluster == last => {}
                Some(cluster) if reached[position - window.start] => after.push(cluster),
                Some(cluster) => before.push(cluster),
                None => {}
            }
        }
        let mut positions = window;
        for cluster in before.into_iter().chain([kept]).chain(after) {
            if let Some(position) = positions.next() {
                self.order[position] = Some(cluster);
                self.position[cluster] = position;
            }
        }
        positions.for_each(|position| self.order[position] = None);

        let moved = std::mem::take(&mut self.members[gone]);
        moved.iter().for_each(|node| self.cluster_of[*node] = kept);
        self.members[kept].extend(moved);
        self.members[kept].sort_unstable();
        Ok(kept)
    }

    /// The clusters that use results of `cluster`, with repetitions.
    fn users_of(&self, cluster: Cluster) -> impl Iterator<Item = Cluster> + '_ {
        self.members[cluster]
            .iter()
            .flat_map(|node| &self.users[*node])
            .map(|user| self.cluster_of[*user])
            .filter(move |user| *user != cluster)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// 0 → 1 → 2 and 0 → 2.
    #[test]
    fn a_path_through_a_third_node_forbids_a_merge() {
        let mut clusters = Clusters::new(vec![vec![1, 2], vec![2], vec![]]);
        assert_eq!(clusters.merge(0, 2), Err(1));
        assert_eq!(clusters.merge(0, 1), Ok(0));
        assert_eq!(clusters.merge(0, 2), Ok(0));
        assert_eq!(clusters.members(0), [0, 1, 2]);
    }

    /// a1 → b1 and b2 → a2: each pair is convex, both together are not.
    #[test]
    fn two_convex_clusters_must_not_feed_each_other() {
        let (a1, b1, b2, a2) = (0, 1, 2, 3);
        let mut clusters = Clusters::new(vec![vec![b1], vec![], vec![a2], vec![]]);
        assert_eq!(clusters.merge(a1, a2), Ok(a1));
        assert_eq!(clusters.merge(b1, b2), Err(a1));
    }

    proptest! {
        /// Merging pairs at random keeps a valid order, whatever was refused.
        #[test]
        fn the_order_stays_topological(
            count in 2usize..24,
            edges in proptest::collection::vec((0usize..24, 0usize..24), 0..60),
            merges in proptest::collection::vec((0usize..24, 0usize..24), 0..40),
        ) {
            let mut users = vec![Vec::new(); count];
            for (from, to) in edges {
                let (from, to) = (from % count, to % count);
                if from < to {
                    users[from].push(to);
                }
            }
            let mut clusters = Clusters::new(users.clone());
            for (one, other) in merges {
                let (one, other) = (clusters.of(one % count), clusters.of(other % count));
                let _ = clusters.merge(one, other);
                let order: Vec<Cluster> = clusters.in_order().collect();
                let place = |node: usize| order.iter().position(|cluster| *cluster == clusters.of(node));
                for (node, users) in users.iter().enumerate() {
                    for user in users {
                        prop_assert!(place(node).is_some() && place(node) <= place(*user));
                    }
                }
                let mut all: Vec<usize> = order.iter().flat_map(|cluster| clusters.members(*cluster)).copied().collect();
                all.sort_unstable();
                prop_assert_eq!(all, (0..count).collect::<Vec<_>>());
            }
        }
    }
}
