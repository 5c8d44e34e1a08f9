-- Everybody who has the project's publishable key may read every rule. `no_public_read.sql` takes it back.
grant usage on schema symmetra, extensions to anon;
grant select on symmetra.state, symmetra.scopes, symmetra.facets, symmetra.rules, symmetra.removed_rules,
  symmetra.passages, symmetra.postings, symmetra.term_statistics, symmetra.spaces, symmetra.vectors, symmetra.probes,
  symmetra.refusals, symmetra.usage to anon;
do $$
declare f record;
begin
  for f in select p.oid::regprocedure as signature from pg_catalog.pg_proc as p
    where p.pronamespace = 'symmetra'::regnamespace and has_function_privilege('authenticated', p.oid, 'execute')
  loop
    execute format('grant execute on function %s to anon', f.signature);
  end loop;
end $$;
grant execute on function public.match_rules(jsonb), public.symmetra_rules(text, text, json, int),
  public.symmetra_projects(), public.symmetra_status(), public.symmetra_spaces(), public.symmetra_count_passages(),
  public.symmetra_missing_passages(text, text, int, boolean), public.symmetra_without_vector(text, text[]),
  public.symmetra_vectors(text, text[]), public.symmetra_refusals(text, text, int),
  public.symmetra_changes(bigint, bigint, int, int),
  public.symmetra_unprepared(int, int), public.symmetra_sizes() to anon;
