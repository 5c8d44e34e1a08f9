-- Takes back what `public_read.sql` gave.
revoke all on all tables in schema symmetra from anon;
revoke all on all functions in schema symmetra from anon;
revoke usage on schema symmetra from anon;
do $$
declare f record;
begin
  for f in select p.oid::regprocedure as signature from pg_catalog.pg_proc as p
    where p.pronamespace = 'public'::regnamespace
      and (p.proname ~ '^symmetra_' or p.oid = to_regprocedure('public.match_rules(jsonb)'))
  loop
    execute format('revoke all on function %s from anon', f.signature);
  end loop;
end $$;
