-- Who may do what. The service role (a secret key) reads and writes. A signed-in user reads: every project, or those
-- that the claim `app_metadata.symmetra_projects` of the token lists. A publishable key reads nothing, until
-- `symmetra-mcp schema apply --public-read`.

select set_config('search_path', 'pg_catalog, public, extensions', true); -- pgvector may lie in either

-- The projects that a token is limited to; null: all.
create or replace function symmetra.readable_projects() returns text[]
language sql stable set search_path = pg_catalog as $$
  select case when jsonb_typeof(claim) = 'array' then array(select jsonb_array_elements_text(claim))
      when claim is null or jsonb_typeof(claim) = 'null' then null else array[]::text[] end
    from (select nullif(current_setting('request.jwt.claims', true), '')::jsonb -> 'app_metadata' -> 'symmetra_projects'
      as claim) as c
$$;

alter table symmetra.state enable row level security;
alter table symmetra.scopes enable row level security;
alter table symmetra.facets enable row level security;
alter table symmetra.rules enable row level security;
alter table symmetra.removed_rules enable row level security;
alter table symmetra.passages enable row level security;
alter table symmetra.postings enable row level security;
alter table symmetra.term_statistics enable row level security;
alter table symmetra.spaces enable row level security;
alter table symmetra.vectors enable row level security;
alter table symmetra.probes enable row level security;
alter table symmetra.refusals enable row level security;
alter table symmetra.notes enable row level security;
alter table symmetra.leases enable row level security;
alter table symmetra.usage enable row level security;
alter table symmetra.uploads enable row level security;

do $$
declare
  readers constant text := 'authenticated, anon'; -- anon has no grant, so its policies take effect with public reading
  name text;
  condition text;
begin
  for name in select unnest(array['anon', 'authenticated', 'service_role']) loop
    if not exists (select from pg_catalog.pg_roles where rolname = name) then
      execute format('create role %I nologin noinherit', name); -- plain PostgreSQL: Supabase has them
      if name = 'service_role' then
        execute 'alter role service_role bypassrls';
      end if;
    end if;
  end loop;
  for name, condition in values
    ('state', 'true'), ('spaces', 'true'), ('term_statistics', 'true'), ('usage', 'true'), ('probes', 'true'),
    ('rules', '(select symmetra.readable_projects()) is null or project_id = any ((select symmetra.readable_projects())::text[])'),
    ('facets', '(select symmetra.readable_projects()) is null or project_id = any ((select symmetra.readable_projects())::text[])'),
    ('removed_rules', '(select symmetra.readable_projects()) is null or project_id = any ((select symmetra.readable_projects())::text[])'),
    ('scopes', '(select symmetra.readable_projects()) is null or exists (select from symmetra.facets as f where f.scope_no = scopes.scope_no)'),
    ('passages', '(select symmetra.readable_projects()) is null or exists (select from symmetra.facets as f where f.facet_no = passages.facet_no)'),
    ('postings', '(select symmetra.readable_projects()) is null or exists (select from symmetra.facets as f where f.facet_no = postings.facet_no)'),
    ('vectors', '(select symmetra.readable_projects()) is null or exists (select from symmetra.passages as p where p.content_hash = vectors.content_hash)'),
    ('refusals', '(select symmetra.readable_projects()) is null or exists (select from symmetra.passages as p where p.content_hash = refusals.content_hash)')
  loop
    execute format('drop policy if exists symmetra_read on symmetra.%I', name);
    execute format('create policy symmetra_read on symmetra.%I for select to %s using (%s)', name, readers, condition);
  end loop;
end $$;

grant usage on schema symmetra to authenticated, service_role;
grant usage on schema extensions to authenticated, service_role;
revoke all on all tables in schema symmetra from anon, authenticated;
grant select, insert, update, delete on all tables in schema symmetra to service_role;
revoke all on symmetra.schema_migrations from service_role;
grant select on symmetra.state, symmetra.scopes, symmetra.facets, symmetra.rules, symmetra.removed_rules,
  symmetra.passages, symmetra.postings, symmetra.term_statistics, symmetra.spaces, symmetra.vectors, symmetra.probes,
  symmetra.refusals, symmetra.usage to authenticated;
grant usage on all sequences in schema symmetra to service_role;

revoke all on all functions in schema symmetra from public, anon, authenticated;
grant execute on all functions in schema symmetra to service_role;
do $$
declare f record;
begin
  for f in select p.oid::regprocedure as signature from pg_catalog.pg_proc as p
    where p.pronamespace = 'symmetra'::regnamespace and p.proname in ('schema_version', 'readable_projects',
      'embedding_space_json', 'rule_json', 'is_complete', 'nearest_rules', 'index_name', 'has_index', 'background',
      'query_terms', 'index_advice')
  loop
    execute format('grant execute on function %s to authenticated', f.signature);
  end loop;
  for f in select p.oid::regprocedure as signature, p.proname from pg_catalog.pg_proc as p
    where p.pronamespace = 'public'::regnamespace
      and (p.proname ~ '^symmetra_' or p.oid = to_regprocedure('public.match_rules(jsonb)'))
  loop
    execute format('revoke all on function %s from public, anon, authenticated', f.signature);
    execute format('grant execute on function %s to service_role', f.signature);
    if f.proname in ('match_rules', 'symmetra_rules', 'symmetra_projects', 'symmetra_status', 'symmetra_spaces',
      'symmetra_count_passages', 'symmetra_missing_passages', 'symmetra_without_vector', 'symmetra_vectors',
      'symmetra_refusals',
      'symmetra_changes', 'symmetra_unprepared', 'symmetra_sizes') then
      execute format('grant execute on function %s to authenticated', f.signature);
    end if;
  end loop;
end $$;
