-- Reading beside search. Every list comes in pages: an answer of REST holds at most so many rows, and so many bytes.

select set_config('search_path', 'pg_catalog, public, extensions', true); -- pgvector may lie in either

-- Rules in the order of their keys: all, those of a project, or one. `after` is the last key of the page before.
create or replace function public.symmetra_rules(project text, id text, after json, page int) returns jsonb
language sql stable set search_path = pg_catalog, symmetra set plan_cache_mode = force_custom_plan as $$
  select coalesce(jsonb_agg(rule_json(r) order by r.project_id, r.rule_id), '[]') from (
    select * from rules as r
      where (project is null or r.project_id = project) and (id is null or r.rule_id = id)
        and (after is null or (r.project_id, r.rule_id) > (after ->> 0, after ->> 1))
      order by r.project_id, r.rule_id limit page) as r
$$;

create or replace function public.symmetra_projects() returns jsonb
language sql stable set search_path = pg_catalog, symmetra as $$
  select coalesce(jsonb_object_agg(project_id, rule_count), '{}')
    from (select project_id, sum(rule_count) as rule_count from facets group by project_id having sum(rule_count) > 0) as f
$$;

-- The version that `symmetra-mcp schema apply` noted last; nobody else reads its table.
create or replace function symmetra.schema_version() returns int
language sql stable security definer set search_path = pg_catalog as $$
  select coalesce(max(version), 0) from symmetra.schema_migrations
$$;

-- What a client has to know before it works: who it is here, and what it finds.
create or replace function public.symmetra_status() returns jsonb
language sql stable set search_path = pg_catalog, symmetra as $$
  select jsonb_build_object(
    'schema', symmetra.schema_version(), 'server', current_setting('server_version'),
    'pgvector', (select extversion from pg_extension where extname = 'vector'),
    'role', current_user, 'writes', has_table_privilege('symmetra.rules', 'insert'),
    'store_id', s.store_id, 'revision', s.revision, 'rules', s.rule_count,
    'visible_rules', (select coalesce(sum(rule_count), 0) from facets),
    'active', (select embedding_space_json(a) from spaces as a where a.space_no = s.active_space))
  from state as s
$$;

-- How complete each space is. A client that may write notes down which are, so that searches need not look.
create or replace function public.symmetra_spaces() returns jsonb
language plpgsql set search_path = pg_catalog, symmetra set statement_timeout = '30s' as $$
declare
  texts bigint := (select count(distinct content_hash) from passages);
  unprepared boolean := exists (select 1 from rules where prepared = 0);
  answer jsonb;
begin
  select coalesce(jsonb_agg(jsonb_build_object('space', embedding_space_json(s), 'active', s.space_no = st.active_space,
      'passages', texts, 'missing', texts - e.embedded - r.refused, 'refused', r.refused,
      'left_at', to_char(s.left_at at time zone 'utc', 'YYYY-MM-DD"T"HH24:MI:SS.US')) order by s.space_id), '[]') into answer
    from spaces as s cross join state as st cross join lateral (
      select count(*) as refused from refusals as f where f.space_no = s.space_no
        and exists (select 1 from passages as p where p.content_hash = f.content_hash)) as r
      cross join lateral (
        select case when s.complete_at = st.revision then texts - r.refused else
          (select count(*) from vectors as v where v.space_no = s.space_no
            and exists (select 1 from passages as p where p.content_hash = v.content_hash)) end as embedded) as e;
  if has_table_privilege('symmetra.spaces', 'update') and not unprepared then
    update spaces as s set complete_at = st.revision from state as st, jsonb_array_elements(answer) as a
      where s.space_id = a -> 'space' ->> 'space_id' and (a ->> 'missing')::bigint = 0
        and s.complete_at is distinct from st.revision;
  end if;
  return answer;
end $$;

create or replace function public.symmetra_count_passages() returns bigint
language sql stable set search_path = pg_catalog, symmetra as $$ select count(distinct content_hash) from passages $$;

-- Texts that lack a vector in a space, or all texts, in the order of their hashes.
create or replace function public.symmetra_missing_passages(space text, after text, page int, again boolean) returns jsonb
language sql stable set search_path = pg_catalog, symmetra set plan_cache_mode = force_custom_plan as $$
  select coalesce(jsonb_agg(jsonb_build_array(content_hash, text) order by content_hash), '[]') from (
    select content_hash, min(text) as text from passages as p
      where content_hash > after and (again or not exists (
        select 1 from (select space_no, content_hash from vectors
            union all select space_no, content_hash from refusals) as v join spaces as s using (space_no)
          where s.space_id = space and v.content_hash = p.content_hash))
      group by content_hash order by content_hash limit page) as p
$$;

-- Texts that a space's provider does not take, each with why, the beginning of the text, and one of its rules.
create or replace function public.symmetra_refusals(space text, after text, page int) returns jsonb
language sql stable set search_path = pg_catalog, symmetra as $$
  select coalesce(jsonb_agg(jsonb_build_array(f.content_hash, f.reason, f.project_id, f.rule_id) order by f.content_hash), '[]')
    from (select distinct on (f.content_hash) f.content_hash, f.reason, r.project_id, r.rule_id
      from refusals as f join spaces as s using (space_no) join passages as p using (content_hash)
        join rules as r using (rule_no)
      where s.space_id = space and f.content_hash > after
      order by f.content_hash, r.project_id, r.rule_id limit page) as f
$$;

create or replace function public.symmetra_without_vector(space text, hashes text[]) returns jsonb
language sql stable set search_path = pg_catalog, symmetra as $$
  select coalesce(jsonb_agg(h), '[]') from unnest(hashes) as t (h) where not exists (
    select 1 from (select space_no, content_hash from vectors union all select space_no, content_hash from probes) as v
      join spaces as s using (space_no) where s.space_id = space and v.content_hash = h)
$$;

-- Vectors in their binary form: two 16-bit numbers, then as many 32-bit floats as there are dimensions, in base64.
create or replace function public.symmetra_vectors(space text, hashes text[]) returns jsonb
language sql stable set search_path = pg_catalog, symmetra, public, extensions as $$
  select coalesce(jsonb_object_agg(content_hash, translate(encode(vector_send(embedding), 'base64'), E'\n', '')), '{}')
    from (select v.content_hash, v.embedding from vectors as v join spaces as s using (space_no)
        where s.space_id = space and v.content_hash = any (hashes)
      union all select v.content_hash, v.embedding from probes as v join spaces as s using (space_no)
        where s.space_id = space and v.content_hash = any (hashes)) as v
$$;

-- What changed since a revision, oldest first: what a copy on another machine follows.
create or replace function public.symmetra_changes(since bigint, after_revision bigint, after_no int, page int) returns jsonb
language sql stable set search_path = pg_catalog, symmetra set plan_cache_mode = force_custom_plan as $$
  with changed as (
    select * from rules as r where r.revision > since and (r.revision, r.rule_no) > (after_revision, after_no)
      order by r.revision, r.rule_no limit page)
  select jsonb_build_object('revision', s.revision, 'store_id', s.store_id,
      'rules', coalesce((select jsonb_agg(rule_json(c) order by c.revision, c.rule_no) from changed as c), '[]'),
      'last', (select jsonb_build_array(c.revision, c.rule_no) from changed as c order by c.revision desc, c.rule_no desc limit 1),
      'removed', case when since = after_revision and after_no = 0 then
        (select coalesce(jsonb_agg(jsonb_build_array(g.project_id, g.rule_id)), '[]') from removed_rules as g
          where g.revision > since) else '[]' end)
    from state as s
$$;

-- Rules whose terms and passages an older version made, or another program has left out.
create or replace function public.symmetra_unprepared(version int, page int) returns jsonb
language sql stable set search_path = pg_catalog, symmetra as $$
  select coalesce(jsonb_agg(rule_json(r) order by r.rule_no), '[]') from (
    select * from rules where prepared < version order by prepared, rule_no limit page) as r
$$;

create or replace function public.symmetra_note(name text) returns text
language sql stable set search_path = pg_catalog, symmetra as $$
  select n.text from notes as n where n.name = symmetra_note.name
$$;

create or replace function public.symmetra_sizes() returns jsonb
language sql stable set search_path = pg_catalog, symmetra as $$
  select jsonb_build_object('vectors', (select count(*) from vectors),
    'size_bytes', (select sum(pg_total_relation_size(c.oid)) from pg_class as c
      where c.relnamespace = 'symmetra'::regnamespace and c.relkind = 'r'),
    'tokens_this_month', (select coalesce(sum(tokens), 0) from usage
      where month = date_trunc('month', now() at time zone 'utc')::date))
$$;

-- What in the tables contradicts itself, or an empty text.
create or replace function public.symmetra_verify() returns text
language sql stable set search_path = pg_catalog, symmetra, public, extensions set statement_timeout = '60s' as $$
  select coalesce(string_agg(problem, '; '), '') from (
    select format('%s rules are counted and %s are there', s.rule_count, r.n) as problem
      from state as s, (select count(*) as n from rules) as r where s.rule_count <> r.n
    union all
    select format('%s vectors have another length than their space', count(*)) from vectors as v
      join spaces as s using (space_no) where vector_dims(v.embedding) <> s.dimensions having count(*) > 0
    union all
    select format('%s search terms are counted wrongly', count(*)) from (
      select term from (select term, count(*) as n from postings group by term) as p
        full join term_statistics as t using (term) where p.n is distinct from t.rule_count) as w having count(*) > 0
    union all
    select format('%s rules are missing in the index of words', count(*)) from rules as r
      where cardinality(r.terms) > 0 and not exists (
        select 1 from postings as p where p.term = r.terms[1] and p.rule_no = r.rule_no) having count(*) > 0
    union all
    select format('%s kinds of rules are counted wrongly', count(*)) from facets as f
      left join (select facet_no, count(*) as n from rules group by facet_no) as r using (facet_no)
      where f.rule_count <> coalesce(r.n, 0) having count(*) > 0) as problems
$$;

-- An approximate index pays from some twenty thousand vectors on; below, every vector is compared.
create or replace function symmetra.index_advice()
returns table (space_no int, space_id text, vectors bigint, indexed boolean, valid boolean, advised boolean)
language sql stable set search_path = pg_catalog, symmetra as $$
  select s.space_no::int, s.space_id, n.n, i.indisvalid is not null, coalesce(i.indisvalid, false),
      n.n > 20000 and s.dimensions <= 4000
    from spaces as s
      cross join lateral (select count(*) as n from vectors as v where v.space_no = s.space_no) as n
      left join pg_class as c on c.relnamespace = 'symmetra'::regnamespace and c.relname = symmetra.index_name(s)
      left join pg_index as i on i.indexrelid = c.oid
    order by s.space_id
$$;

-- The statement that builds a space's index; it has to run outside a transaction, and blocks nobody.
create or replace function symmetra.index_statement(space_no int) returns text
language sql stable set search_path = pg_catalog, symmetra as $$
  select format('create index concurrently if not exists %I on symmetra.vectors using hnsw '
      '((embedding::%s(%s)) %s) with (m = 16, ef_construction = 100) where space_no = %s',
      symmetra.index_name(s),
      (select format('%I.halfvec', n.nspname) from pg_type as t join pg_namespace as n on n.oid = t.typnamespace
        where t.typname = 'halfvec' limit 1), s.dimensions,
      (select format('%I.halfvec_cosine_ops', n.nspname) from pg_opclass as o join pg_namespace as n on n.oid = o.opcnamespace
        where o.opcname = 'halfvec_cosine_ops' limit 1), s.space_no)
    from spaces as s where s.space_no = index_statement.space_no
$$;
