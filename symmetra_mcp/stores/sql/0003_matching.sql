-- Search: one function, one round trip. Filters are decided on `facets`; meaning and words each bring their best rules;
-- all of these get both scores, exactly, and are fused. The weights come with the request, so that the embedded store
-- and this one rank by the same constants.

select set_config('search_path', 'pg_catalog, public, extensions', true); -- pgvector may lie in either

create or replace function symmetra.embedding_space_json(s symmetra.spaces) returns jsonb
language sql immutable set search_path = pg_catalog as $$
  select jsonb_build_object('space_id', s.space_id, 'provider', s.provider, 'model', s.model,
    'dimensions', s.dimensions, 'normalized', s.normalized, 'variant', s.variant)
$$;

create or replace function symmetra.rule_json(r symmetra.rules) returns jsonb
language sql stable set search_path = pg_catalog as $$
  select jsonb_build_object('project_id', r.project_id, 'rule_id', r.rule_id, 'title', r.title, 'guidance', r.guidance,
    'rationale', r.rationale, 'category', r.category, 'priority', r.priority, 'tech_stacks', r.tech_stacks,
    'contexts', r.contexts, 'keywords', r.keywords, 'sources', r.sources)
$$;

-- Whether no text of the rules lacks a vector in a space.
create or replace function symmetra.is_complete(s symmetra.spaces, at_revision bigint) returns boolean
language sql stable set search_path = pg_catalog, symmetra as $$
  select s.complete_at is not distinct from at_revision or (
    not exists (select 1 from rules where prepared = 0)
    and not exists (select 1 from passages as p where not exists (
        select 1 from vectors as v where v.space_no = s.space_no and v.content_hash = p.content_hash)
      and not exists (
        select 1 from refusals as r where r.space_no = s.space_no and r.content_hash = p.content_hash)))
$$;

-- The nearest passages of a space, each rule once by its best, nearest first. `allowed` null: every rule may answer.
create or replace function symmetra.nearest_rules(
  s symmetra.spaces, query vector, allowed int[], rule_count bigint, wanted int,
  out rule_nos int[], out similarities double precision[], out ordinals smallint[])
language plpgsql stable set search_path = pg_catalog, symmetra, public, extensions as $$
declare
  -- Up to so many rules every vector is compared: exact, and as fast as an index at that size.
  exact constant boolean := rule_count <= case when allowed is null then 20000 else 5000 end
    or not symmetra.has_index(s);
  fetched int := wanted + least(wanted, 20);
  got int;
  nearest text;
begin
  if exact and allowed is not null then
    -- `offset 0`: each vector is looked up by its key. The planner takes rare kinds of rules for frequent ones, and
    -- would read all vectors for a few.
    execute format($q$
      select array_agg(rule_no order by d, rule_no), array_agg(1 - d order by d, rule_no),
          array_agg(ordinal order by d, rule_no)
        from (select * from (
            select distinct on (p.rule_no) p.rule_no, p.ordinal, v.d
              from passages as p, lateral (select x.embedding <=> $1 as d from vectors as x
                where x.space_no = %s and x.content_hash = p.content_hash %s) as v
              where p.facet_no = any ($2) order by p.rule_no, v.d, p.ordinal) as best
          order by d, rule_no limit $3) as nearest
      $q$, s.space_no, case when rule_count <= 5000 then 'offset 0' end)
      into rule_nos, similarities, ordinals using query, allowed, wanted;
    return;
  end if;
  if not exact then
    -- With a filter, as many at once as it takes: to go on with a search that has ended costs more.
    perform set_config('hnsw.ef_search', least(greatest(case when allowed is null then 2 * fetched
      else ceil(1.2 * fetched * (select t.rule_count from state as t) / greatest(rule_count, 1)) end, 200), 1000)::text, true);
    perform set_config('hnsw.iterative_scan', 'relaxed_order', true);
    perform set_config('hnsw.max_scan_tuples', '200000', true);
  end if;
  loop
    if exact then
      nearest := format('select v.content_hash, v.embedding <=> $1 as d from vectors as v where v.space_no = %s
        order by d limit $3', s.space_no);
      nearest := format('select p.rule_no, p.ordinal, n.d from (%s) as n join passages as p using (content_hash)', nearest);
    elsif allowed is null then
      nearest := format('select p.rule_no, p.ordinal, n.embedding <=> $1 as d from (
          select v.content_hash, v.embedding from vectors as v where v.space_no = %1$s
          order by v.embedding::halfvec(%2$s) <=> $1::halfvec(%2$s) limit $3) as n
        join passages as p using (content_hash)', s.space_no, s.dimensions);
    else
      nearest := format('select n.rule_no, n.ordinal, n.embedding <=> $1 as d from (
          select p.rule_no, p.ordinal, v.embedding from vectors as v join passages as p using (content_hash)
          where v.space_no = %1$s and p.facet_no = any ($2)
          order by v.embedding::halfvec(%2$s) <=> $1::halfvec(%2$s) limit $3) as n', s.space_no, s.dimensions);
    end if;
    execute format($q$
      select count(*), array_agg(rule_no order by d, rule_no), array_agg(1 - d order by d, rule_no),
          array_agg(ordinal order by d, rule_no)
        from (select distinct on (rule_no) rule_no, ordinal, d from (%s) as n
          order by rule_no, d, ordinal) as best
      $q$, nearest) into got, rule_nos, similarities, ordinals using query, allowed, fetched;
    exit when got >= wanted or got >= rule_count or fetched >= 200000;
    fetched := fetched * 8;
    exit when not exact and fetched > 20000;
  end loop;
  if got > wanted then
    rule_nos := rule_nos[:wanted];
    similarities := similarities[:wanted];
    ordinals := ordinals[:wanted];
  end if;
end $$;

create or replace function symmetra.index_name(s symmetra.spaces) returns text
language sql immutable set search_path = pg_catalog as $$ select 'vectors_of_space_' || s.space_no $$;

create or replace function symmetra.has_index(s symmetra.spaces) returns boolean
language sql stable set search_path = pg_catalog, symmetra as $$
  select exists (select 1 from pg_index as i join pg_class as c on c.oid = i.indexrelid
    where c.relnamespace = 'symmetra'::regnamespace and c.relname = symmetra.index_name(s) and i.indisvalid)
$$;

-- Cosine that unrelated questions stay below, among the rules that may answer.
create or replace function symmetra.background(
  s symmetra.spaces, allowed int[], rule_count bigint, hashes text[], share double precision) returns double precision
language plpgsql stable set search_path = pg_catalog, symmetra, public, extensions as $$
declare
  known int := (select count(*) from probes as p where p.space_no = s.space_no and p.content_hash = any (hashes));
  by_index constant boolean := rule_count > case when allowed is null then 20000 else 5000 end and symmetra.has_index(s);
  step int;
  answer double precision;
begin
  if known < cardinality(hashes) or known = 0 or rule_count = 0 then
    return null;
  end if;
  -- Every probe against every vector is some two million cosines a second: beyond that, fewer probes are asked.
  step := case when by_index then 1
    else greatest(1, ceil(rule_count::float8 * known / 1500000)::int) end;
  if by_index then
    select percentile_cont(share) within group (order by (n.similarities)[1]) into answer from (
      select embedding from (select embedding, row_number() over (order by content_hash) as place from probes
        where space_no = s.space_no and content_hash = any (hashes)) as numbered where place % step = 0) as p,
      lateral symmetra.nearest_rules(s, p.embedding, allowed, rule_count, 1) as n;
    return answer;
  end if;
  execute format($q$
    with asked as materialized (
      select embedding, place from (select embedding, row_number() over (order by content_hash) as place from probes
        where space_no = %1$s and content_hash = any ($2)) as p where place %% $4 = 0)
    select percentile_cont($1) within group (order by best) from (
      select max(p.similarity) as best
        from (select distinct content_hash from passages where $3 is null or facet_no = any ($3)) as t,
          lateral (select x.embedding from vectors as x
            where x.space_no = %1$s and x.content_hash = t.content_hash %2$s) as v,
          lateral (select a.place, 1 - (v.embedding <=> a.embedding) as similarity from asked as a offset 0) as p
        group by p.place) as nearest
    $q$, s.space_no, case when rule_count <= 5000 then 'offset 0' end) into answer using share, hashes, allowed, step;
  return answer;
end $$;

-- BM25 of rules by a few terms; `df` and `idf` are of the whole store.
create or replace function symmetra.query_terms(terms bigint[])
returns table (term bigint, df int, idf double precision)
language sql stable rows 20 set search_path = pg_catalog, symmetra as $$
  select t.term, t.rule_count, ln(1 + ((select rule_count from state) - t.rule_count + 0.5) / (t.rule_count + 0.5))
    from term_statistics as t where t.term = any (terms)
$$;

create or replace function public.match_rules(request jsonb) returns jsonb
language plpgsql stable parallel safe
set search_path = pg_catalog, symmetra, public, extensions
set jit = off -- compiling takes longer than the search
as $$
declare
  now_state symmetra.state := (select state from state);
  active symmetra.spaces;
  own symmetra.spaces;
  compares boolean := request ->> 'vector' is not null;
  query vector;
  wanted bigint[] := array(select (jsonb_array_elements_text(request -> 'terms'))::bigint);
  frequent bigint[];
  max_results int := greatest((request ->> 'limit')::int, 1);
  depth int := (request -> 'weights' ->> 'depth')::int;
  meaning double precision := case when compares then (request -> 'weights' ->> 'meaning')::float8 else 0 end;
  k1 double precision := (request -> 'weights' ->> 'k1')::float8;
  b double precision := (request -> 'weights' ->> 'b')::float8;
  mean_length double precision;
  newest_scope int := (select coalesce(max(scope_no), 0) from scopes);
  passing int[];
  everywhere int[]; -- the same without regard to the file in hand
  considered bigint;
  considered_everywhere bigint;
  out_of_scope bigint;
  visible bigint;
  preferred int[];
  preferences double precision[];
  rule_nos int[];
  similarities double precision[];
  ordinals smallint[];
  unembedded bigint := 0;
  background double precision;
  token text;
  answer jsonb;
begin
  select s.* into active from spaces as s where s.space_no = now_state.active_space;
  answer := jsonb_build_object('revision', now_state.revision, 'store_id', now_state.store_id, 'newest_scope', newest_scope,
    'active', case when active.space_no is null then null else embedding_space_json(active) end);
  if request ? 'scopes_known' and newest_scope > (request ->> 'scopes_known')::int then
    return answer || jsonb_build_object('scopes', (select jsonb_agg(jsonb_build_array(scope_no, globs) order by scope_no)
      from scopes where scope_no > (request ->> 'scopes_known')::int));
  end if;
  if compares then
    query := (request ->> 'vector')::vector;
    select s.* into own from spaces as s where s.space_id = request ->> 'space';
    if own.space_no is distinct from active.space_no and not coalesce(is_complete(own, now_state.revision), false) then
      if active.space_no is not null then
        raise exception using errcode = 'PT409', message = 'the rules are embedded in another space',
          detail = embedding_space_json(active)::text, hint = 'run `symmetra-mcp reembed`';
      end if;
      own := null;
    end if;
    if own.space_no is not null and vector_dims(query) <> own.dimensions then
      raise exception using errcode = 'PT422', detail = own.space_id,
        message = format('the vector has %s dimensions, this space has %s', vector_dims(query), own.dimensions);
    end if;
  end if;

  select coalesce(array_agg(facet_no) filter (where in_scope), '{}'), array_agg(facet_no),
      coalesce(sum(rule_count) filter (where in_scope), 0), coalesce(sum(rule_count) filter (where not in_scope), 0),
      coalesce(sum(rule_count), 0),
      array_agg(facet_no) filter (where in_scope and preference <> 0),
      array_agg(preference) filter (where in_scope and preference <> 0)
    into passing, everywhere, considered, out_of_scope, considered_everywhere, preferred, preferences
    from (select f.facet_no, f.rule_count,
          not request ? 'scopes_known' or f.scope_no is null
            or f.scope_no = any (array(select jsonb_array_elements_text(request -> 'scopes')::int)) as in_scope,
          case when f.tech_stacks && array(select jsonb_array_elements_text(request -> 'preferred_stacks'))
              then (request -> 'weights' ->> 'stack')::float8
            when request -> 'preferred_stacks' <> '[]' and f.tech_stacks <> '{}'
              then - (request -> 'weights' ->> 'stack')::float8
            else 0 end
          + case when f.project_id = any (array(select jsonb_array_elements_text(request -> 'preferred_projects')))
              then (request -> 'weights' ->> 'project')::float8 else 0 end as preference
        from facets as f
        where f.rule_count > 0
          and (request -> 'projects' = '[]'
            or f.project_id = any (array(select jsonb_array_elements_text(request -> 'projects'))))
          and not f.project_id = any (array(select jsonb_array_elements_text(request -> 'excluded_projects')))
          and (request ->> 'category' = '' or f.category_key = request ->> 'category')
          and f.priority_no >= (request ->> 'min_priority')::int
          and (request -> 'tech_stacks' = '[]' or f.tech_stacks = '{}'
            or f.tech_stacks && array(select jsonb_array_elements_text(request -> 'tech_stacks')))) as f;
  answer := answer || jsonb_build_object('considered', considered, 'out_of_scope', out_of_scope,
    'unprepared', (select count(*) from (select 1 from rules where prepared < (request ->> 'prepared')::int limit 1000) as u));
  if considered = 0 then
    return answer || jsonb_build_object('candidates', jsonb_build_array(), 'unembedded', 0);
  end if;
  if considered = now_state.rule_count then
    passing := null;
  end if;
  if considered_everywhere = now_state.rule_count then
    everywhere := null;
  end if;

  if own.space_no is not null then
    select n.rule_nos, n.similarities, n.ordinals into rule_nos, similarities, ordinals
      from nearest_rules(own, query, passing, considered, greatest(depth, max_results)) as n;
    if own.complete_at is distinct from now_state.revision then
      select count(*) into unembedded from rules as r where (passing is null or r.facet_no = any (passing))
        and not exists (select 1 from passages as p join vectors as v on v.space_no = own.space_no
          and v.content_hash = p.content_hash where p.rule_no = r.rule_no)
        and not exists (select 1 from passages as p join refusals as f on f.space_no = own.space_no
          and f.content_hash = p.content_hash where p.rule_no = r.rule_no);
    end if;
    token := format('%s.%s.%s', now_state.revision, own.space_no, own.revision);
    if request -> 'known_background' ->> 'token' = token then
      background := (request -> 'known_background' ->> 'value')::float8;
    else
      background := symmetra.background(own, everywhere, considered_everywhere,
        array(select jsonb_array_elements_text(request -> 'probes')), (request ->> 'quantile')::float8);
    end if;
  elsif compares then
    unembedded := considered;
  end if;

  mean_length := greatest(now_state.term_total / greatest(now_state.rule_count, 1), 1e-9);
  -- The rarest terms find the candidates, as far as so many postings go; all terms count when these are scored.
  select array_agg(term) into frequent from (
    select term, df, sum(df) over (order by df, term) as total from query_terms(wanted)) as t
    where df <= 200 or total <= case when considered * 3 < now_state.rule_count or not compares then 30000 else 12000 end;
  return answer || (
    with asked as materialized (select * from query_terms(wanted)),
    liked as materialized (select * from unnest(preferred, preferences) as t (facet_no, preference)),
    by_words as materialized (
      select p.rule_no, max(p.facet_no) as facet_no,
          sum(a.idf * p.occurrences * (k1 + 1) / (p.occurrences + k1 * (1 - b + b * p.rule_length / mean_length))) as words
        from asked as a join postings as p on p.term = a.term
        where a.term = any (frequent) and (passing is null or p.facet_no = any (passing))
        group by p.rule_no),
    best_by_words as (
      (select rule_no from by_words where preferred is null order by words desc, rule_no limit 2 * max_results + 20)
      union all
      (select w.rule_no from by_words as w left join liked as l using (facet_no) where preferred is not null
        order by (1 - meaning) * w.words / (select greatest(max(words), 1e-9) from by_words)
          + coalesce(l.preference, 0) desc, w.rule_no
        limit 2 * max_results + 20)),
    candidate_numbers as (
      select unnest(rule_nos) as rule_no
      union select rule_no from best_by_words
      union select r.rule_no from rules as r
        where compares and considered <= 2 * depth and (passing is null or r.facet_no = any (passing))),
    near as materialized (
      select * from unnest(rule_nos, similarities, ordinals) as t (rule_no, similarity, ordinal)),
    scored as materialized (
      select r.rule_no, r.facet_no, n.similarity, n.ordinal, t.words, t.matched
        from candidate_numbers as c join rules as r using (rule_no) left join near as n using (rule_no),
        lateral (
          select coalesce(sum(impact), 0) as words,
              jsonb_agg(jsonb_build_array(term, impact) order by impact desc, term) as matched
            from (select a.term, a.idf * u.occurrences * (k1 + 1)
                  / (u.occurrences + k1 * (1 - b + b * r.term_length / mean_length)) as impact
                from unnest(r.terms, r.term_counts) as u (term, occurrences) join asked as a on a.term = u.term) as i) as t),
    placed as materialized (
      select s.rule_no, s.facet_no, s.words, s.matched,
          coalesce(s.similarity, o.similarity) as similarity, coalesce(s.ordinal, o.ordinal) as ordinal
        from scored as s left join lateral (
          select 1 - (v.embedding <=> query) as similarity, p.ordinal from passages as p
            join vectors as v on v.space_no = own.space_no and v.content_hash = p.content_hash
            where s.similarity is null and p.rule_no = s.rule_no
            order by v.embedding <=> query, p.ordinal limit 1) as o on own.space_no is not null),
    scale as (
      select (similarities)[1] as highest,
          case when least(depth, considered) < depth
            then least((similarities)[cardinality(similarities)], 0)
            else (similarities)[least(depth, cardinality(similarities))] end as lowest,
          (select greatest(max(words), 1e-30) from placed) as best_words),
    fused as (
      select p.*, meaning * coalesce((greatest(p.similarity, s.lowest) - s.lowest)
            / greatest(s.highest - s.lowest, 1e-6), 0) + (1 - meaning) * p.words / s.best_words as relevance
        from placed as p, scale as s
        where compares or p.words > 0),
    ranked as (
      select f.*, f.relevance + coalesce(l.preference, 0) as score
        from fused as f left join liked as l using (facet_no) order by score desc, f.rule_no limit max_results)
    select jsonb_build_object(
      'unembedded', unembedded, 'best_similarity', (select highest from scale), 'background', background, 'token', token,
      'candidates', coalesce(jsonb_agg(jsonb_build_object('rule', rule_json(r), 'score', c.score, 'relevance', c.relevance,
          'similarity', c.similarity, 'matched', coalesce(c.matched, '[]'), 'scope', f.scope_no,
          'passage', case when c.ordinal is not null and (c.ordinal > 0 or (
              select count(*) from passages as p join vectors as v on v.space_no = own.space_no
                and v.content_hash = p.content_hash where p.rule_no = c.rule_no) > 1)
            then (select p.text from passages as p where p.rule_no = c.rule_no and p.ordinal = c.ordinal) end)
        order by c.score desc, c.rule_no), '[]'))
      from ranked as c join rules as r using (rule_no) join facets as f on f.facet_no = r.facet_no);
end $$;
