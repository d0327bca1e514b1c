//! Which steps go together.
//!
//! Regions grow around anchors in a fixed order: matrix products take their siblings, then what follows them, then what comes before;
//! attention takes what surrounds it; reductions and then elementwise steps take what is left. In each round steps are visited in the order
//! of the graph, so that equal graphs are fused equally.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tessera_ir::{Attribute, Graph, Name, Op, Shape, ValueId, ops};

use super::clusters::{Cluster, Clusters};
use super::dataflow::{Dataflow, Source};
use crate::graph::role::Role;

/// Most regions that compute the same prologue for themselves.
const MOST_COPIES: usize = 3;

/// The steps of a graph, grouped.
pub struct Grouping<'g> {
    graph: &'g Graph,
    /// The steps.
    pub flow: &'g Dataflow,
    /// Which go together.
    pub clusters: Clusters,
    /// Steps that each of their users computes for itself, with the anchors that do: they are no part of any cluster.
    pub copied: BTreeMap<usize, BTreeSet<usize>>,
    /// Why a step was not taken into the region of another; the first reason found.
    pub refusals: BTreeMap<(usize, usize), String>,
}

/// How many elements a shape has: a number and the symbols that multiply it.
type Volume = (Option<u64>, Vec<Name>);

impl<'g> Grouping<'g> {
    /// Groups the steps of `graph`.
    pub fn of(graph: &'g Graph, flow: &'g Dataflow) -> Self {
        let mut grouping = Grouping {
            graph,
            flow,
            clusters: Clusters::new(flow.users.clone()),
            copied: BTreeMap::new(),
            refusals: BTreeMap::new(),
        };
        grouping.join_siblings();
        grouping.grow_epilogues();
        grouping.copy_prologues();
        grouping.grow_attention();
        grouping.join_choices();
        grouping.grow_reductions();
        grouping.grow_elementwise();
        grouping
    }

    fn role(&self, step: usize) -> Role {
        self.flow.steps[step].role
    }

    fn steps_with(&self, is: impl Fn(Role) -> bool) -> Vec<usize> {
        (0..self.flow.steps.len()).filter(|step| is(self.role(*step))).collect()
    }

    /// Whether a step is still on its own.
    fn is_single(&self, step: usize) -> bool {
        self.clusters.members(self.clusters.of(step)).len() == 1 && !self.copied.contains_key(&step)
    }

    fn refuse(&mut self, step: usize, anchor: usize, reason: impl Into<String>) {
        self.refusals.entry((step, anchor)).or_insert_with(|| reason.into());
    }

    /// Merges a step into a cluster, unless that makes a cycle.
    fn take(&mut self, step: usize, cluster: Cluster) -> Option<Cluster> {
        match self.clusters.merge(cluster, self.clusters.of(step)) {
            Ok(merged) => Some(merged),
            Err(between) => {
                let between = self.clusters.members(between).first().copied().unwrap_or(step);
                let what = crate::graph::describe(self.graph, self.flow.steps[between].node);
                self.refuse(step, cluster, format!("{what} must run between the two"));
                None
            }
        }
    }

    /// Products of one left side whose results meet again: q, k and v, or gate and up.
    fn join_siblings(&mut self) {
        let mut by_lhs: BTreeMap<ValueId, Vec<usize>> = BTreeMap::new();
        for step in self.steps_with(|role| role == Role::Matmul) {
            let operands = self.graph.operands(self.flow.steps[step].node);
            let is_matrix = |value: &ValueId| self.graph.value_type(*value).as_tensor().is_some_and(|ty| ty.rank() == 2);
            if let [lhs, rhs] = operands.as_slice()
                && is_matrix(rhs)
            {
                by_lhs.entry(*lhs).or_default().push(step);
            }
        }
        for siblings in by_lhs.into_values().filter(|siblings| siblings.len() > 1) {
            let reached: Vec<BTreeSet<usize>> = siblings.iter().map(|step| self.reached(*step)).collect();
            for later in 1..siblings.len() {
                for earlier in 0..later {
                    if !reached[earlier].is_disjoint(&reached[later]) {
                        self.take(siblings[later], self.clusters.of(siblings[earlier]));
                    }
                }
            }
            let groups: BTreeSet<Cluster> = siblings.iter().map(|step| self.clusters.of(*step)).collect();
            let groups: Vec<Cluster> = groups.into_iter().collect();
            for pair in groups.windows(2) {
                self.refuse(pair[1], pair[0], "it reads the same rows, but the results never meet");
            }
        }
    }

    /// The steps that a product's result flows into, as far as the next products.
    fn reached(&self, step: usize) -> BTreeSet<usize> {
        let mut reached = BTreeSet::new();
        let mut pending = vec![step];
        while let Some(step) = pending.pop() {
            for user in self.flow.users[step].iter().copied() {
                let role = self.role(user);
                if !matches!(role, Role::Matmul | Role::Grouped | Role::Alone) && reached.insert(user) && role != Role::Attention {
                    pending.push(user);
                }
            }
        }
        reached
    }

    /// Bias, activation, residual, split, rope and cache append join the products before them.
    fn grow_epilogues(&mut self) {
        for anchor in self.steps_with(|role| matches!(role, Role::Matmul | Role::Grouped)) {
            let cluster = self.clusters.of(anchor);
            self.grow_forward(cluster, anchor, |grouping, step, cluster| grouping.epilogue_objection(step, cluster));
        }
    }

    /// Takes users of the cluster, and their users, for as long as `objection` has none.
    fn grow_forward(
        &mut self,
        mut cluster: Cluster,
        anchor: usize,
        objection: impl Fn(&Self, usize, Cluster) -> Option<&'static str>,
    ) {
        loop {
            let candidates: BTreeSet<usize> = self
                .clusters
                .members(cluster)
                .iter()
                .flat_map(|step| self.flow.users[*step].iter().copied())
                .filter(|user| self.clusters.of(*user) != cluster && self.is_single(*user))
                .filter(|user| self.could_follow(*user, cluster))
                .collect();
            let mut grown = false;
            for step in candidates {
                match objection(self, step, cluster) {
                    Some(reason) => self.refuse(step, anchor, reason),
                    None => {
                        if let Some(merged) = self.take(step, cluster) {
                            cluster = merged;
                            grown = true;
                        }
                    }
                }
            }
            if !grown {
                return;
            }
        }
    }

    /// Whether a step is of a kind that joins what it reads. An append joins its keys and values, not whoever wrote the cache before.
    fn could_follow(&self, step: usize, cluster: Cluster) -> bool {
        match self.role(step) {
            Role::Elementwise { .. } | Role::Rope | Role::View => true,
            Role::Append => self.split_sources(step, cluster).0.iter().any(|source| (1..=2).contains(&source.operand)),
            _ => false,
        }
    }

    /// The sources of a step inside and outside a cluster.
    fn split_sources(&self, step: usize, cluster: Cluster) -> (Vec<Source>, Vec<Source>) {
        let inside = |source: &Source| source.step.is_some_and(|step| self.clusters.of(step) == cluster);
        self.flow.steps[step].sources.iter().copied().partition(inside)
    }

    /// Why a step cannot be computed tile by tile from the products of a cluster, if so.
    fn epilogue_objection(&self, step: usize, cluster: Cluster) -> Option<&'static str> {
        let (inside, _) = self.split_sources(step, cluster);
        if let Some(objection) = inside.iter().find_map(|source| source.path.objection()) {
            return Some(objection);
        }
        match self.role(step) {
            Role::Rope if inside.iter().any(|source| source.operand != 0) => {
                Some("its positions come from the product itself")
            }
            Role::Append if inside.iter().any(|source| !(1..=2).contains(&source.operand)) => {
                Some("its cache or its places come from the region itself")
            }
            Role::Append => None,
            _ if self.graph.operation(self.flow.steps[step].node).is_some_and(|operation| operation.is(ops::COMBINE)) => {
                Some("it adds up rows of different experts")
            }
            _ => {
                let volume = self.result_volume(step)?;
                let covers = |product: &Volume| {
                    product.1 == volume.1 && product.0.zip(volume.0).is_some_and(|(product, own)| own <= product)
                };
                let products = self.clusters.members(cluster).iter().filter(|step| matches!(self.role(**step), Role::Matmul | Role::Grouped));
                let fits = products.filter_map(|step| self.result_volume(*step)).any(|product| covers(&product));
                (!fits).then_some("its result has another shape than the product")
            }
        }
    }

    fn shape(&self, value: ValueId) -> Option<&'g Shape> {
        self.graph.value_type(value).as_tensor().map(|tensor| &tensor.shape)
    }

    fn result_volume(&self, step: usize) -> Option<Volume> {
        self.shape(ValueId::first(self.flow.steps[step].node)).map(Shape::volume)
    }

    /// Norms and cheap steps before a product are computed by every region that needs them, which spares a trip through memory.
    fn copy_prologues(&mut self) {
        // Users first, so that a chain before a product is followed upwards.
        for step in (0..self.flow.steps.len()).rev() {
            let candidate = matches!(self.role(step), Role::Norm | Role::Lookup | Role::Elementwise { .. } | Role::View);
            if candidate && self.is_single(step) {
                match self.copy_targets(step) {
                    Ok(anchors) => {
                        self.copied.insert(step, anchors);
                    }
                    Err(Some((anchor, reason))) => self.refuse(step, anchor, reason),
                    Err(None) => {}
                }
            }
        }
    }

    /// The products into whose regions a step can be copied; or which product cannot have it, and why.
    fn copy_targets(&self, step: usize) -> Result<BTreeSet<usize>, Option<(usize, String)>> {
        let mut anchors: BTreeSet<usize> = BTreeSet::new();
        let mut others = None;
        let users = &self.flow.users[step];
        for user in users {
            if let Some(copies) = self.copied.get(user) {
                anchors.extend(copies);
                continue;
            }
            let reads_rows = |source: &Source| source.step != Some(step) || (source.operand == 0 && !source.path.transposed);
            if self.role(*user) == Role::Matmul && self.flow.steps[*user].sources.iter().all(reads_rows) {
                anchors.insert(*user);
            } else {
                others = Some(*user);
            }
        }
        let Some(first) = anchors.first().copied() else { return Err(None) };
        let node = self.flow.steps[step].node;
        if let Some(other) = others {
            let other = crate::graph::describe(self.graph, self.flow.steps[other].node);
            return Err(Some((first, format!("its result is also needed by {other}"))));
        }
        if self.graph.is_output(ValueId::first(node)) {
            return Err(Some((first, "its result is an output".to_owned())));
        }
        let regions: BTreeSet<Cluster> = anchors.iter().map(|anchor| self.clusters.of(*anchor)).collect();
        if regions.len() > MOST_COPIES {
            let reason = format!("{} regions would each compute it; at most {MOST_COPIES} may", regions.len());
            return Err(Some((first, reason)));
        }
        match self.role(step) {
            Role::Elementwise { light: false } => {
                Err(Some((first, "every tile of the product would compute it again, which costs more than storing it".to_owned())))
            }
            Role::Norm if users.iter().any(|user| self.copied.contains_key(user)) => {
                Err(Some((first, "a step follows that every tile would compute again".to_owned())))
            }
            _ => Ok(anchors),
        }
    }

    /// Attention takes what is done to its queries alone, and what is done to its result.
    fn grow_attention(&mut self) {
        for anchor in self.steps_with(|role| role == Role::Attention) {
            let mut cluster = self.clusters.of(anchor);
            let queries = self.flow.producers(anchor).filter(|(source, _)| source.operand == 0 && source.path.objection().is_none());
            let queries: Vec<usize> = queries.map(|(_, step)| step).collect();
            for step in queries {
                let fits = matches!(self.role(step), Role::Elementwise { light: true } | Role::Rope);
                if fits && self.is_single(step) && self.flow.users[step] == [anchor] && !self.escapes(step) {
                    cluster = self.take(step, cluster).unwrap_or(cluster);
                }
            }
            self.grow_forward(cluster, anchor, |grouping, step, cluster| {
                let (inside, _) = grouping.split_sources(step, cluster);
                let whole = inside.iter().all(|source| source.path.objection().is_none());
                let same = grouping.result_volume(step) == grouping.result_volume(anchor);
                let joins = !matches!(grouping.role(step), Role::Append) && whole && same;
                (!joins).then_some("it is not elementwise in the result of the attention")
            });
        }
    }

    /// Whether a result of the step is an output of the graph.
    fn escapes(&self, step: usize) -> bool {
        let node = self.flow.steps[step].node;
        let results = self.graph.node(node).results().len() as u32;
        (0..results).any(|result| self.graph.is_output(ValueId { node, result }))
    }

    /// The shape that a reduction runs over, and along which dimensions.
    fn domain(&self, step: usize) -> Option<(Shape, Vec<u64>)> {
        let node = self.flow.steps[step].node;
        let shape = self.shape(*self.graph.operands(node).first()?)?.clone();
        let operation = self.graph.operation(node)?;
        let axes = match (operation.attribute("axes"), operation.attribute("axis")) {
            (Some(Attribute::Naturals(axes)), _) => axes.clone(),
            (_, Some(Attribute::Natural(axis))) => vec![*axis],
            _ => vec![shape.rank().checked_sub(1)? as u64],
        };
        Some((shape, axes))
    }

    /// Reductions over the same rows, and the elementwise steps around them.
    fn grow_reductions(&mut self) {
        for anchor in self.steps_with(|role| matches!(role, Role::Reduction | Role::Norm)) {
            if self.copied.contains_key(&anchor) {
                continue;
            }
            let Some(domain) = self.domain(anchor) else { continue };
            let rows: Shape = (0..domain.0.rank())
                .filter(|axis| !domain.1.contains(&(*axis as u64)))
                .map(|axis| domain.0[axis].clone())
                .collect();
            let volumes = [domain.0.volume(), rows.volume()];
            self.grow_around(anchor, |grouping, step| match grouping.role(step) {
                Role::Reduction | Role::Norm => {
                    (grouping.domain(step).as_ref() != Some(&domain)).then_some("it reduces other rows")
                }
                _ => {
                    let fits = grouping.result_volume(step).is_none_or(|volume| volumes.contains(&volume));
                    (!fits).then_some("its result has another shape than the rows")
                }
            });
        }
    }

    /// A router's choice, what it chooses, and the weights that are made of that: small rows, for which kernels of their own are mostly launches.
    fn join_choices(&mut self) {
        let is = |step: usize, op: Op| {
            self.graph.operation(self.flow.steps[step].node).is_some_and(|operation| operation.is(op))
        };
        let mut chains = Vec::new();
        for choice in (0..self.flow.steps.len()).filter(|step| is(*step, ops::TOP_K)) {
            for taken in self.flow.users[choice].iter().copied().filter(|user| is(*user, ops::TAKE)) {
                let weights = self.flow.users[taken].iter().copied().filter(|user| is(*user, ops::SOFTMAX));
                chains.extend(weights.map(|weights| [choice, taken, weights]));
            }
        }
        for [choice, taken, weights] in chains {
            let cluster = self.clusters.of(choice);
            if let Some(cluster) = self.take(taken, cluster) {
                self.take(weights, cluster);
            }
        }
    }

    /// Chains of elementwise steps of one size.
    fn grow_elementwise(&mut self) {
        let elementwise = |role| matches!(role, Role::Elementwise { .. } | Role::Rope | Role::Append | Role::Lookup | Role::View);
        for seed in self.steps_with(elementwise) {
            if !self.is_single(seed) {
                continue;
            }
            let volume = self.result_volume(seed);
            self.grow_around(seed, |grouping, step| {
                let other = grouping.result_volume(step);
                let same = other == volume || other.is_none() || volume.is_none();
                (!elementwise(grouping.role(step)) || !same).then_some("it has another number of elements")
            });
        }
    }

    /// Takes producers and users of the cluster of `anchor`, and theirs, for as long as `objection` has none.
    fn grow_around(&mut self, anchor: usize, objection: impl Fn(&Self, usize) -> Option<&'static str>) {
        let mut cluster = self.clusters.of(anchor);
        let mut refused: HashMap<usize, ()> = HashMap::new();
        loop {
            let mut candidates: BTreeSet<usize> = BTreeSet::new();
            for member in self.clusters.members(cluster) {
                candidates.extend(self.flow.producers(*member).map(|(_, step)| step));
                candidates.extend(&self.flow.users[*member]);
            }
            candidates.retain(|step| {
                self.clusters.of(*step) != cluster
                    && self.is_single(*step)
                    && !refused.contains_key(step)
                    && !matches!(self.role(*step), Role::Alone | Role::Matmul | Role::Grouped | Role::Attention)
            });
            let Some(step) = candidates.into_iter().next() else { return };
            let between = self.between(step, cluster);
            let reason = if between.iter().any(|source| source.path.transposed) {
                Some("dimensions change places in between")
            } else if between.iter().any(|source| source.path.picked.is_some()) {
                Some("rows are picked in between")
            } else {
                objection(self, step)
            };
            match reason {
                Some(reason) => self.refuse(step, anchor, reason),
                None => {
                    if let Some(merged) = self.take(step, cluster) {
                        cluster = merged;
                        refused.clear();
                        continue;
                    }
                }
            }
            refused.insert(step, ());
        }
    }

    /// The reads between a step and a cluster, in both directions.
    fn between(&self, step: usize, cluster: Cluster) -> Vec<Source> {
        let (mut between, _) = self.split_sources(step, cluster);
        for member in self.clusters.members(cluster) {
            let sources = self.flow.steps[*member].sources.iter();
            between.extend(sources.filter(|source| source.step == Some(step)));
        }
        between
    }
}
