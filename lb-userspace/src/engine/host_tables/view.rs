//! The pipeline's view of the tables.

use super::*;

impl<F: Family> Tables<F> for HostTables<F>
where
    F::Address: Ord,
{
    type Found = Found<F::Address>;
    type Service = FoundService;

    fn recall(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        let flow = *self.established.borrow().get(key)?;
        Some(Found {
            key: *key,
            table: Table::Established,
            flow,
        })
    }

    fn reread(&self, found: Self::Found) -> Self::Found {
        let flow = match found.table {
            Table::Established => self.established.borrow().get(&found.key).copied(),
            Table::Transient => self.transient.borrow_mut().find(&found.key),
            Table::Draft => *self.draft.borrow(),
        };
        Found {
            flow: flow.unwrap_or(found.flow),
            ..found
        }
    }

    fn note(&self, flow: Self::Found, last_ack: u32, now: Tick) {
        self.change(flow, |flow| {
            flow.last_ack = last_ack;
            flow.last_seen = now;
        });
    }

    fn note_next_hop(&self, flow: Self::Found, next_hop: NextHop) {
        self.change(flow, |flow| flow.next_hop = next_hop);
    }

    fn note_fin(&self, flow: Self::Found, behind: u32) {
        self.change(flow, |flow| {
            flow.has_fin = 1;
            flow.memo = behind;
        });
    }

    fn note_phase(&self, flow: Self::Found, phase: Phase, memo: u32) {
        self.change(flow, |flow| flow.enter(phase, memo));
    }

    fn disown(&self, flow: Self::Found) {
        self.change(flow, |flow| flow.generation = 0);
    }

    fn promote(&self, key: &FlowKey<F::Address>) -> Result<(), Full> {
        let flow = self.transient.borrow_mut().find(key);
        flow.map_or(Err(Full), |flow| self.establish(key, || flow))
    }

    fn demote(&self, key: &FlowKey<F::Address>) {
        let flow = self.established.borrow().get(key).copied();
        if let Some(flow) = flow {
            self.transient.borrow_mut().insert(*key, flow);
        }
    }

    fn establish(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> Result<(), Full> {
        let mut established = self.established.borrow_mut();
        if established.len() >= self.established_size && !established.contains_key(key) {
            return Err(Full);
        }
        established.insert(*key, flow());
        Ok(())
    }

    fn unestablish(&self, key: &FlowKey<F::Address>) -> bool {
        self.established.borrow_mut().remove(key).is_some()
    }

    fn transient(&self, key: &FlowKey<F::Address>) -> Option<Self::Found> {
        let flow = self.transient.borrow_mut().find(key)?;
        Some(Found {
            key: *key,
            table: Table::Transient,
            flow,
        })
    }

    fn draft(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> Option<Self::Found> {
        let flow = flow();
        *self.draft.borrow_mut() = Some(flow);
        Some(Found {
            key: *key,
            table: Table::Draft,
            flow,
        })
    }

    fn remember(&self, draft: Self::Found) -> bool {
        let draft = Tables::<F>::reread(self, draft);
        self.transient.borrow_mut().insert(draft.key, draft.flow);
        true
    }

    fn claim(
        &self,
        key: &FlowKey<F::Address>,
        before: Option<Self::Found>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> bool {
        let mut transient = self.transient.borrow_mut();
        let is_free = before.is_some() || transient.find(key).is_none();
        if is_free {
            transient.insert(*key, flow());
        }
        is_free
    }

    fn draft_reply(
        &self,
        key: &FlowKey<F::Address>,
        flow: impl FnOnce() -> Flow<F::Address>,
    ) -> bool {
        *self.reply_draft.borrow_mut() = Some((*key, flow()));
        true
    }

    fn open(&self, draft: Self::Found) -> bool {
        let Some((reply_key, reply)) = self.reply_draft.take() else {
            return false;
        };
        let is_there = |key| Tables::<F>::transient(self, key).is_some();
        let is_free = !is_there(&draft.key) && !is_there(&reply_key);
        if is_free {
            Tables::<F>::count(self, draft.slot, Milestone::HalfOpened);
            Tables::<F>::remember(self, draft);
            self.transient.borrow_mut().insert(reply_key, reply);
        }
        is_free
    }

    fn forget(&self, key: &FlowKey<F::Address>) -> bool {
        self.transient.borrow_mut().remove(key)
    }

    fn linger(&self, key: &FlowKey<F::Address>, now: Tick) {
        self.lingering.borrow_mut().insert(*key, now);
    }

    fn lingers(&self, key: &FlowKey<F::Address>, now: Tick) -> bool {
        let lingering = self.lingering.borrow();
        lingering
            .get(key)
            .is_some_and(|since| now.since(*since) < LINGER.0)
    }

    /// The filter only spares the kernel work: here it lets everything through.
    fn may_be_ours(&self, _: &FlowKey<F::Address>) -> bool {
        true
    }

    fn may_be_known(&self, key: &FlowKey<F::Address>) -> bool {
        self.transient.borrow().has(key) || self.established.borrow().contains_key(key)
    }

    fn service(&self, key: &ServiceKey<F::Address>) -> Option<FoundService> {
        self.services.get(key).copied().map(FoundService)
    }

    fn access(&self, service: ServiceId, client: F::Address) -> Option<Access> {
        let client = client.widen();
        let networks = self.access.iter().filter(|((of, network, prefix), _)| {
            *of == service && agree(client, *network, *prefix)
        });
        let longest = networks.max_by_key(|((.., prefix), _)| *prefix);
        longest.map(|(_, access)| *access)
    }

    fn keeps_pace(&self, source: &SourceKey, rate: u32, now: Tick) -> bool {
        let mut paces = self.paces.borrow_mut();
        let pace = paces.entry(*source).or_default();
        let next = pace.step(rate, now);
        *pace = next.unwrap_or(*pace);
        next.is_some()
    }

    fn source_connections(&self, source: &SourceKey) -> u64 {
        self.source_tally(source).connections(0)
    }

    fn count_source(&self, source: &SourceKey) {
        let mut sources = self.sources.borrow_mut();
        sources.entry(*source).or_default().established += 1;
    }

    fn discount_source(&self, source: &SourceKey) {
        if let Some(tally) = self.sources.borrow_mut().get_mut(source) {
            tally.ended += 1;
        }
    }

    fn ports(&self) -> (u16, u16) {
        self.ports
    }

    fn member(&self, slot: Slot) -> Option<Member> {
        (u32::from(slot.0) < MAX_SLOTS)
            .then(|| self.members.get(&slot).copied().unwrap_or_default())
    }

    fn generation(&self, slot: Slot) -> Option<u32> {
        (u32::from(slot.0) < MAX_SLOTS)
            .then(|| self.members.get(&slot).map_or(0, |it| it.generation))
    }

    fn backend(&self, id: BackendId) -> Option<Backend<F::Address>> {
        let backend = self.backends.get(&id).copied().unwrap_or_default();
        (id.0 < MAX_BACKENDS).then(|| backend.map(Address::narrow))
    }

    fn slot_tally(&self, slot: Slot) -> Option<Tally> {
        let tallies = self.slot_tallies.borrow();
        (u32::from(slot.0) < MAX_SLOTS).then(|| tallies.get(&slot).copied().unwrap_or_default())
    }

    fn backend_tally(&self, id: BackendId) -> Option<Tally> {
        let tallies = self.backend_tallies.borrow();
        (id.0 < MAX_BACKENDS).then(|| tallies.get(&id).copied().unwrap_or_default())
    }

    fn ring(&self, service: ServiceId, position: u32) -> Option<u8> {
        if service.0 >= MAX_SERVICES || position >= RING_BYTES {
            return None;
        }
        let ring = self.rings.get(&service);
        Some(
            ring.and_then(|ring| ring.get(position as usize))
                .copied()
                .unwrap_or(0),
        )
    }

    #[expect(clippy::cast_possible_truncation, reason = "turns wrap")]
    fn take_turn(&self, service: ServiceId) -> u32 {
        if service.0 >= MAX_SERVICES {
            return 0;
        }
        let mut turns = self.turns.borrow_mut();
        let turn = turns.entry(service).or_default();
        *turn += 1;
        (*turn - 1) as u32
    }

    fn count(&self, slot: Slot, milestone: Milestone) {
        let mut of_backends = self.backend_tallies.borrow_mut();
        if let Some(member) = Tables::<F>::member(self, slot) {
            add(
                self.slot_tallies.borrow_mut().entry(slot).or_default(),
                milestone,
            );
            add(of_backends.entry(member.backend).or_default(), milestone);
        }
        add(
            of_backends.entry(BackendId::GATEWAY).or_default(),
            milestone,
        );
    }

    fn suspect(&self, slot: Slot) {
        let Some(member) = Tables::<F>::member(self, slot) else {
            return;
        };
        let mut tallies = self.slot_tallies.borrow_mut();
        let tally = tallies.entry(slot).or_default();
        if is_forgiven(tally.suspicions, member.forgiven) {
            tally.suspicions += 1;
            self.suspects.borrow_mut().push(slot);
        }
    }

    fn next_hop_generation(&self) -> u32 {
        self.next_hop_generation
    }

    fn find_next_hop(&self, _source: F::Address, destination: F::Address, next_hop: &mut NextHop) {
        self.lookups.set(self.lookups.get() + 1);
        *next_hop = self
            .next_hops
            .get(&destination)
            .copied()
            .unwrap_or_default();
        if next_hop.interface != 0 {
            next_hop.generation = self.next_hop_generation;
        }
    }

    fn shares_next_hops(&self) -> bool {
        self.shares_next_hops
    }

    fn reuse_next_hop(&self, flow: Self::Found, now: Tick) -> bool {
        let kept = self.member_hops.borrow().get(&flow.slot).copied();
        let kept = kept.filter(|it| it.is_current(flow.generation, self.next_hop_generation, now));
        if let Some(kept) = kept {
            Tables::<F>::note_next_hop(self, flow, kept.next_hop);
        }
        kept.is_some()
    }

    fn keep_next_hop(&self, flow: Self::Found, now: Tick) {
        let flow = Tables::<F>::reread(self, flow);
        let kept = MemberHop {
            next_hop: flow.next_hop,
            generation: flow.generation,
            found: now,
        };
        self.member_hops.borrow_mut().insert(flow.slot, kept);
    }

    /// Nothing is put together on the host's way here.
    fn is_aggregated(&self) -> bool {
        false
    }
}

fn add(tally: &mut Tally, milestone: Milestone) {
    match milestone {
        Milestone::HalfOpened => tally.half_opened += 1,
        Milestone::HalfClosed => tally.half_closed += 1,
        Milestone::Established => {
            tally.half_closed += 1;
            tally.established += 1;
        }
        Milestone::Resumed => tally.established += 1,
        Milestone::Ended => tally.ended += 1,
    }
}

/// Whether the first `prefix` bits are the same.
fn agree(one: WideAddress, other: WideAddress, prefix: u8) -> bool {
    let number = |words: WideAddress| {
        let append = |number: u128, word: u32| number << 32 | u128::from(u32::from_be(word));
        words.into_iter().fold(0, append)
    };
    let differing: u128 = number(one) ^ number(other);
    differing.leading_zeros() >= u32::from(prefix)
}
