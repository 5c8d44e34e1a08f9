-- What keeps the tables in step with `rules`, and the functions that write.

select set_config('search_path', 'pg_catalog, public, extensions', true); -- pgvector may lie in either

create or replace function symmetra.next_revision() returns bigint
language plpgsql set search_path = pg_catalog, symmetra as $$
declare number bigint;
begin
  update state set revision = revision + 1, revision_xact = pg_current_xact_id()::text
    where revision_xact <> pg_current_xact_id()::text returning revision into number;
  if not found then
    select revision into number from state;
  end if;
  return number;
end $$;

create or replace function symmetra.stamp_rule() returns trigger
language plpgsql set search_path = pg_catalog, symmetra as $$
begin
  new.revision := next_revision();
  new.updated_at := now();
  return new;
end $$;
create or replace trigger stamp_rule before insert or update on symmetra.rules
  for each row execute function symmetra.stamp_rule();

create or replace function symmetra.lock_rules() returns trigger
language plpgsql set search_path = pg_catalog, symmetra as $$
begin
  perform next_revision();
  return null;
end $$;
create or replace trigger lock_rules before delete on symmetra.rules
  for each statement execute function symmetra.lock_rules();

create or replace function symmetra.count_terms() returns trigger
language plpgsql set search_path = pg_catalog, symmetra as $$
begin
  if tg_op = 'INSERT' then
    insert into term_statistics as s (term, rule_count)
      select term, count(*) from changed group by term order by term
      on conflict (term) do update set rule_count = s.rule_count + excluded.rule_count;
  else
    update term_statistics as s set rule_count = s.rule_count - c.n
      from (select term, count(*) as n from changed group by term) as c where s.term = c.term;
    delete from term_statistics as s using (select distinct term from changed) as c
      where s.term = c.term and s.rule_count <= 0;
  end if;
  return null;
end $$;
create or replace trigger count_new_terms after insert on symmetra.postings
  referencing new table as changed for each statement execute function symmetra.count_terms();
create or replace trigger count_old_terms after delete on symmetra.postings
  referencing old table as changed for each statement execute function symmetra.count_terms();

create or replace function symmetra.add_rules_to_index() returns trigger
language plpgsql set search_path = pg_catalog, symmetra as $$
begin
  insert into postings (term, rule_no, facet_no, occurrences, rule_length)
    select t.term, n.rule_no, n.facet_no, t.occurrences, n.term_length
      from new_rules as n, unnest(n.terms, n.term_counts) as t (term, occurrences);
  update facets as f set rule_count = f.rule_count + n.n
    from (select facet_no, count(*) as n from new_rules group by facet_no) as n where f.facet_no = n.facet_no;
  update state set rule_count = rule_count + n.n, term_total = term_total + n.length
    from (select count(*) as n, coalesce(sum(term_length::double precision), 0) as length from new_rules) as n;
  delete from removed_rules as g using new_rules as n where g.project_id = n.project_id and g.rule_id = n.rule_id;
  return null;
end $$;
create or replace trigger add_rules_to_index after insert on symmetra.rules
  referencing new table as new_rules for each statement execute function symmetra.add_rules_to_index();

create or replace function symmetra.drop_rules_from_index() returns trigger
language plpgsql set search_path = pg_catalog, symmetra as $$
begin
  delete from postings as p using (select rule_no, unnest(terms) as term from old_rules) as o
    where p.term = o.term and p.rule_no = o.rule_no;
  update facets as f set rule_count = f.rule_count - o.n
    from (select facet_no, count(*) as n from old_rules group by facet_no) as o where f.facet_no = o.facet_no;
  update state set rule_count = rule_count - o.n, term_total = term_total - o.length
    from (select count(*) as n, coalesce(sum(term_length::double precision), 0) as length from old_rules) as o;
  insert into removed_rules (project_id, rule_id, revision)
    select project_id, rule_id, next_revision() from old_rules
    on conflict (project_id, rule_id) do update set revision = excluded.revision;
  return null;
end $$;
create or replace trigger drop_rules_from_index after delete on symmetra.rules
  referencing old table as old_rules for each statement execute function symmetra.drop_rules_from_index();

create or replace function symmetra.move_rules_in_index() returns trigger
language plpgsql set search_path = pg_catalog, symmetra as $$
begin
  delete from postings as p using (
      select o.rule_no, unnest(o.terms) as term from old_rules as o join new_rules as n using (rule_no)
        where (o.terms, o.term_counts, o.term_length, o.facet_no)
          is distinct from (n.terms, n.term_counts, n.term_length, n.facet_no)) as o
    where p.term = o.term and p.rule_no = o.rule_no;
  insert into postings (term, rule_no, facet_no, occurrences, rule_length)
    select t.term, n.rule_no, n.facet_no, t.occurrences, n.term_length
      from old_rules as o join new_rules as n using (rule_no), unnest(n.terms, n.term_counts) as t (term, occurrences)
      where (o.terms, o.term_counts, o.term_length, o.facet_no)
        is distinct from (n.terms, n.term_counts, n.term_length, n.facet_no);
  update facets as f set rule_count = f.rule_count + d.n
    from (select facet_no, sum(n) as n from (
        select facet_no, 1 as n from new_rules union all select facet_no, -1 from old_rules) as both_sides
      group by facet_no having sum(n) <> 0) as d where f.facet_no = d.facet_no;
  update state set term_total = term_total + d.length from (
    select coalesce((select sum(term_length::double precision) from new_rules), 0)
      - coalesce((select sum(term_length::double precision) from old_rules), 0) as length) as d where d.length <> 0;
  update passages as p set facet_no = n.facet_no from new_rules as n
    where p.rule_no = n.rule_no and p.facet_no <> n.facet_no;
  insert into removed_rules (project_id, rule_id, revision)
    select o.project_id, o.rule_id, next_revision() from old_rules as o join new_rules as n using (rule_no)
      where (o.project_id, o.rule_id) is distinct from (n.project_id, n.rule_id)
    on conflict (project_id, rule_id) do update set revision = excluded.revision;
  return null;
end $$;
create or replace trigger move_rules_in_index after update on symmetra.rules
  referencing old table as old_rules new table as new_rules
  for each statement execute function symmetra.move_rules_in_index();

-- A space that loses a vector is no longer known to be complete.
create or replace function symmetra.doubt_completeness() returns trigger
language plpgsql set search_path = pg_catalog, symmetra as $$
begin
  update spaces as s set complete_at = null, revision = s.revision + 1
    where s.space_no in (select distinct space_no from gone);
  return null;
end $$;
create or replace trigger doubt_completeness after delete on symmetra.vectors
  referencing old table as gone for each statement execute function symmetra.doubt_completeness();

-- Rows of a write: the last of each key counts.
create or replace function symmetra.rule_rows(p_rules json)
returns table (
  place bigint, facet_key text, project_id text, rule_id text, title text, guidance text, rationale text,
  category text, category_key text, priority text, priority_no smallint, tech_stacks text[], contexts text[],
  keywords text[], sources jsonb, scopes text, terms bigint[], term_counts real[], term_length real, prepared smallint,
  passages json)
language sql immutable set search_path = pg_catalog as $$
  select distinct on (r.project_id collate "C", r.rule_id collate "C") e.place,
      md5(jsonb_build_array(r.project_id, r.category_key, r.priority_no, r.tech_stacks, r.scopes)::text),
      r.project_id, r.rule_id, r.title, r.guidance, r.rationale, r.category, r.category_key, r.priority, r.priority_no,
      r.tech_stacks, r.contexts, r.keywords, r.sources, r.scopes, r.terms, r.term_counts, r.term_length, r.prepared,
      r.passages
    from json_array_elements(p_rules) with ordinality as e (rule, place),
      json_to_record(e.rule) as r (
        project_id text, rule_id text, title text, guidance text, rationale text, category text, category_key text,
        priority text, priority_no smallint, tech_stacks text[], contexts text[], keywords text[], sources jsonb,
        scopes text, terms bigint[], term_counts real[], term_length real, prepared smallint, passages json)
    order by r.project_id collate "C", r.rule_id collate "C", e.place desc
$$;

create or replace function symmetra.write_rules(p_rules json) returns bigint
language plpgsql set search_path = pg_catalog, symmetra as $$
declare number bigint := next_revision();
begin
  insert into scopes (globs) select distinct scopes from rule_rows(p_rules) where scopes <> '' order by 1
    on conflict (globs) do nothing;
  insert into facets (facet_key, project_id, category_key, priority_no, tech_stacks, scope_no)
    select distinct on (x.facet_key) x.facet_key, x.project_id, x.category_key, x.priority_no, x.tech_stacks, s.scope_no
      from rule_rows(p_rules) as x left join scopes as s on s.globs = x.scopes order by x.facet_key
    on conflict (facet_key) do nothing;
  insert into rules as r (
      project_id, rule_id, title, guidance, rationale, category, priority, tech_stacks, contexts, keywords, sources,
      facet_no, terms, term_counts, term_length, prepared)
    select x.project_id, x.rule_id, x.title, x.guidance, x.rationale, x.category, x.priority, x.tech_stacks, x.contexts,
        x.keywords, x.sources, f.facet_no, x.terms, x.term_counts, x.term_length, x.prepared
      from rule_rows(p_rules) as x join facets as f using (facet_key) order by x.place
    on conflict (project_id, rule_id) do update set
      title = excluded.title, guidance = excluded.guidance, rationale = excluded.rationale,
      category = excluded.category, priority = excluded.priority, tech_stacks = excluded.tech_stacks,
      contexts = excluded.contexts, keywords = excluded.keywords, sources = excluded.sources,
      facet_no = excluded.facet_no, terms = excluded.terms, term_counts = excluded.term_counts,
      term_length = excluded.term_length, prepared = excluded.prepared;
  delete from passages as p using rule_rows(p_rules) as x join rules as r using (project_id, rule_id)
    where p.rule_no = r.rule_no;
  insert into passages (rule_no, ordinal, facet_no, content_hash, text)
    select r.rule_no, t.ordinal - 1, r.facet_no, t.passage ->> 0, t.passage ->> 1
      from rule_rows(p_rules) as x join rules as r using (project_id, rule_id),
        json_array_elements(x.passages) with ordinality as t (passage, ordinal);
  return number;
end $$;

create or replace function public.symmetra_write_rules(rules json) returns jsonb
language plpgsql set search_path = pg_catalog, symmetra set statement_timeout = '60s' as $$
begin
  return jsonb_build_object('revision', write_rules(rules));
end $$;

-- A write in several requests: parts are kept aside, and the last call writes all of them or none.
create or replace function public.symmetra_write_part(upload uuid, part int, rules json) returns jsonb
language plpgsql set search_path = pg_catalog, symmetra set statement_timeout = '60s' as $$
#variable_conflict use_column
begin
  delete from uploads where created_at < now() - interval '1 day';
  insert into uploads (upload_id, part, body) values (upload, part, rules)
    on conflict (upload_id, part) do update set body = excluded.body;
  return jsonb_build_object('part', part);
end $$;

create or replace function public.symmetra_write_parts(upload uuid, parts int) returns jsonb
language plpgsql set search_path = pg_catalog, symmetra set statement_timeout = '60s' as $$
declare
  done jsonb := (select body from uploads as u where u.upload_id = upload and u.part = 0);
  found_parts int := (select count(*) from uploads as u where u.upload_id = upload and u.part between 1 and parts);
  number bigint;
begin
  if done is not null then
    return done; -- asked again after an answer that got lost
  end if;
  if found_parts <> parts then
    raise exception using errcode = 'PT409', message = format('%s of %s parts of the write arrived', found_parts, parts),
      hint = 'write the rules again';
  end if;
  number := write_rules((select json_agg(e.rule order by u.part, e.place) from uploads as u,
    json_array_elements(u.body) with ordinality as e (rule, place) where u.upload_id = upload));
  done := jsonb_build_object('revision', number);
  delete from uploads where upload_id = upload;
  insert into uploads (upload_id, part, body) values (upload, 0, done::json);
  return done;
end $$;

create or replace function public.symmetra_delete_rules(keys json) returns jsonb
language plpgsql set search_path = pg_catalog, symmetra set statement_timeout = '60s' as $$
declare n bigint;
begin
  delete from rules as r using (select distinct k ->> 0 as project_id, k ->> 1 as rule_id
      from json_array_elements(keys) as e (k)) as d
    where r.project_id = d.project_id and r.rule_id = d.rule_id;
  get diagnostics n = row_count;
  return jsonb_build_object('deleted', n);
end $$;

create or replace function symmetra.register_space(space jsonb) returns symmetra.spaces
language plpgsql set search_path = pg_catalog, symmetra as $$
declare found_space spaces;
begin
  select * into found_space from spaces as s where s.space_id = space ->> 'space_id';
  if not found then
    insert into spaces (space_id, provider, model, dimensions, normalized, variant)
      values (space ->> 'space_id', space ->> 'provider', space ->> 'model', (space ->> 'dimensions')::int,
        (space ->> 'normalized')::boolean, space ->> 'variant')
      on conflict (space_id) do nothing;
    select * into strict found_space from spaces as s where s.space_id = space ->> 'space_id';
  end if;
  if (found_space.provider, found_space.model, found_space.dimensions, found_space.normalized, found_space.variant)
    is distinct from (space ->> 'provider', space ->> 'model', (space ->> 'dimensions')::int,
      (space ->> 'normalized')::boolean, space ->> 'variant') then
    raise exception using errcode = 'PT409', message = 'this embedding space is registered with other parameters',
      detail = found_space.space_id;
  end if;
  return found_space;
end $$;

-- `vectors` and `probes` are lists of a content hash and a vector as text; `tokens` is what the vendor billed for them.
create or replace function public.symmetra_put_vectors(
  space jsonb, vectors json, probes json, tokens bigint, request uuid) returns jsonb
language plpgsql set search_path = pg_catalog, symmetra, public, extensions set statement_timeout = '60s' as $$
declare
  own symmetra.spaces := register_space(space);
  hashes text[];
  embeddings vector[];
  probe_hashes text[];
  probe_embeddings vector[];
  wrong int;
begin
  select * into own from spaces as s where s.space_no = own.space_no for update;
  select coalesce(array_agg(e ->> 0), '{}'), coalesce(array_agg((e ->> 1)::vector), '{}') into hashes, embeddings
    from json_array_elements(vectors) as t (e);
  select coalesce(array_agg(e ->> 0), '{}'), coalesce(array_agg((e ->> 1)::vector), '{}')
    into probe_hashes, probe_embeddings from json_array_elements(probes) as t (e);
  select min(vector_dims(v)) into wrong from unnest(embeddings || probe_embeddings) as t (v)
    where vector_dims(v) <> own.dimensions;
  if wrong is not null then
    raise exception using errcode = 'PT422', detail = own.space_id,
      message = format('a vector has %s dimensions, this space has %s', wrong, own.dimensions);
  end if;
  insert into vectors as v (space_no, content_hash, embedding)
    select distinct on (h) own.space_no, h, e from unnest(hashes, embeddings) as t (h, e) order by h
    on conflict (space_no, content_hash) do update set embedding = excluded.embedding;
  insert into probes as p (space_no, content_hash, embedding)
    select distinct on (h) own.space_no, h, e from unnest(probe_hashes, probe_embeddings) as t (h, e) order by h
    on conflict (space_no, content_hash) do update set embedding = excluded.embedding;
  delete from refusals as r where r.space_no = own.space_no and r.content_hash = any (hashes);
  if own.last_request = request then
    return jsonb_build_object('written', 0); -- the answer got lost, and it was asked again
  end if;
  update spaces as s set revision = s.revision + 1, last_request = request where s.space_no = own.space_no;
  insert into usage as u (month, space_no, texts, tokens)
    values (date_trunc('month', now() at time zone 'utc')::date, own.space_no,
      cardinality(hashes) + cardinality(probe_hashes), tokens)
    on conflict (month, space_no) do update set texts = u.texts + excluded.texts, tokens = u.tokens + excluded.tokens;
  return jsonb_build_object('written', cardinality(hashes) + cardinality(probe_hashes));
end $$;

-- With `if_complete`, only where no text lacks a vector: nobody writes a rule between the look and the switch.
drop function if exists public.symmetra_activate_space(jsonb);
create or replace function public.symmetra_activate_space(space jsonb, if_complete boolean default false) returns jsonb
language plpgsql set search_path = pg_catalog, symmetra set statement_timeout = '60s' as $$
declare
  own symmetra.spaces := register_space(space);
  now_state symmetra.state;
  former text;
begin
  select * into now_state from state for update;
  select s.space_id into former from spaces as s where s.space_no = now_state.active_space;
  if if_complete and not symmetra.is_complete(own, now_state.revision) then
    return jsonb_build_object('active', former, 'switched', false);
  end if;
  update spaces as s set left_at = clock_timestamp()
    where s.space_no = now_state.active_space and s.space_no <> own.space_no;
  update state set active_space = own.space_no where active_space is distinct from own.space_no;
  return jsonb_build_object('active', own.space_id, 'former', former, 'switched', true);
end $$;

-- `reasons`: why each text, by its hash, is not embedded. One that has a vector keeps it, and is none of these.
create or replace function public.symmetra_refuse(space jsonb, reasons jsonb) returns void
language plpgsql set search_path = pg_catalog, symmetra as $$
declare own symmetra.spaces := register_space(space);
begin
  insert into refusals (space_no, content_hash, reason)
    select own.space_no, key, value from jsonb_each_text(reasons) as t
      where not exists (select 1 from vectors as v where v.space_no = own.space_no and v.content_hash = t.key)
      order by key
    on conflict (space_no, content_hash) do update set reason = excluded.reason;
end $$;

-- Delete some vectors of a space, and the space with the last of them: a large one takes several calls.
create or replace function public.symmetra_drop_space(space text, page int) returns jsonb
language plpgsql set search_path = pg_catalog, symmetra set statement_timeout = '60s' as $$
declare
  own symmetra.spaces;
  now_state symmetra.state;
  n bigint;
begin
  select * into now_state from state for update;
  select * into own from spaces as s where s.space_id = space for update;
  if own.space_no is null then
    return jsonb_build_object('known', false);
  end if;
  if own.space_no = now_state.active_space then
    raise exception using errcode = 'PT409', message = 'searches compare in this space', detail = own.space_id;
  end if;
  delete from vectors as v where v.space_no = own.space_no and v.content_hash in (
    select content_hash from vectors as w where w.space_no = own.space_no order by content_hash limit page);
  get diagnostics n = row_count;
  if n < page then
    delete from spaces as s where s.space_no = own.space_no;
  end if;
  return jsonb_build_object('known', true, 'deleted', n, 'done', n < page);
end $$;

create or replace function public.symmetra_set_note(name text, note text) returns void
language sql set search_path = pg_catalog, symmetra as $$
  insert into notes (name, text) values (name, note) on conflict (name) do update set text = excluded.text
$$;

-- A task that one program at a time may do. Its owner renews it; a dead one loses it when the time is over.
create or replace function public.symmetra_take_lease(task text, owner text, seconds int) returns jsonb
language plpgsql set search_path = pg_catalog, symmetra as $$
#variable_conflict use_column
declare held symmetra.leases;
begin
  insert into leases as l (task, owner, held_until)
    values (task, owner, clock_timestamp() + make_interval(secs => least(greatest(seconds, 1), 900)))
    on conflict on constraint leases_pkey do update set
      held_since = case when l.owner = excluded.owner then l.held_since else now() end,
      owner = excluded.owner, held_until = excluded.held_until
      where l.owner = excluded.owner or l.held_until < clock_timestamp()
    returning * into held;
  if found then
    return jsonb_build_object('held', true, 'since', held.held_since); -- another `since` is another holding
  end if;
  select * into held from leases as l where l.task = symmetra_take_lease.task;
  return jsonb_build_object('held', false, 'owner', held.owner, 'since', held.held_since);
end $$;

create or replace function public.symmetra_release_lease(task text, owner text) returns void
language sql set search_path = pg_catalog, symmetra as $$
  delete from leases as l where l.task = symmetra_release_lease.task and l.owner = symmetra_release_lease.owner
$$;
