-- The older Symmetra kept its rules in `public.rules`, with an `embedding vector(384)` beside each and a function
-- `match_rules(query_embedding, match_threshold, match_count)`. Its programs may go on working: that table, its types and
-- its function stay exactly as they are. Each of its rules is carried over into `symmetra.rules`, and triggers keep the two
-- in step: what its programs write arrives here, what is changed here of a rule that came from there is changed there.

select set_config('search_path', 'pg_catalog, public, extensions', true); -- pgvector may lie in either

create table if not exists symmetra.older_rules (
  older_key text primary key, -- the row's `id` there, or project and rule id where it has none
  rule_no int not null references symmetra.rules on delete cascade
);
create index if not exists older_rules_by_rule on symmetra.older_rules (rule_no);
alter table symmetra.older_rules enable row level security;
grant select, insert, update, delete on symmetra.older_rules to service_role;

create or replace function symmetra.older_key(r jsonb) returns text
language sql immutable set search_path = pg_catalog as $$
  select coalesce(r ->> 'id', jsonb_build_array(r ->> 'project_id', r ->> 'rule_id')::text)
$$;

-- A list, however the older table writes it: an array, JSON, or a text with commas.
create or replace function symmetra.older_list(value jsonb) returns text[]
language sql immutable set search_path = pg_catalog as $$
  select case jsonb_typeof(value)
    when 'array' then array(select e from jsonb_array_elements_text(value) as t (e) where e is not null)
    when 'string' then array(select btrim(e) from unnest(string_to_array(value #>> '{}', ',')) as t (e) where btrim(e) <> '')
    else '{}' end
$$;

-- Write one row of the older table into ours. Its terms and passages follow when symmetra-mcp next runs with a key that
-- may write: only that knows how to make them.
create or replace function symmetra.carry_over(r jsonb) returns void
language plpgsql security definer set search_path = pg_catalog, symmetra as $$
declare
  key text := older_key(r);
  project text := coalesce(nullif(btrim(r ->> 'project_id'), ''), 'shared');
  wanted_id text := coalesce(nullif(btrim(r ->> 'rule_id'), ''), nullif(r ->> 'id', ''), 'rule');
  kind text := coalesce(r ->> 'category', '');
  rank text := lower(coalesce(r ->> 'priority', 'medium'));
  stacks text[] := array(select lower(e) from unnest(older_list(r -> 'tech_stacks')) as t (e));
  number int := (select rule_no from older_rules where older_key = key);
  own_id text;
  suffix int := 1;
  facet int;
  facet_text text;
begin
  perform next_revision();
  if rank not in ('low', 'medium', 'high', 'critical') then
    rank := 'medium';
  end if;
  own_id := wanted_id;
  while exists (select 1 from rules as o join older_rules as m using (rule_no)
      where o.project_id = project and o.rule_id = own_id and m.older_key <> key) loop
    suffix := suffix + 1; -- the older table may hold one id twice
    own_id := wanted_id || '-' || suffix;
  end loop;
  facet_text := md5(jsonb_build_array(project, lower(kind), array_position(array['low', 'medium', 'high', 'critical'],
    rank) - 1, stacks, '')::text);
  insert into facets (facet_key, project_id, category_key, priority_no, tech_stacks)
    values (facet_text, project, lower(kind), array_position(array['low', 'medium', 'high', 'critical'], rank) - 1,
      stacks) on conflict (facet_key) do nothing;
  select facet_no into facet from facets where facet_key = facet_text;
  if number is null then
    select rule_no into number from rules where project_id = project and rule_id = own_id;
  end if;
  perform set_config('symmetra.carrying_over', 'yes', true);
  if number is null then
    insert into rules (project_id, rule_id, title, guidance, rationale, category, priority, tech_stacks, contexts, keywords,
        facet_no)
      values (project, own_id, coalesce(r ->> 'title', ''), coalesce(r ->> 'guidance', ''), coalesce(r ->> 'rationale', ''),
        kind, rank, stacks, older_list(r -> 'contexts'), older_list(r -> 'keywords'), facet)
      returning rule_no into number;
  else
    update rules set project_id = project, rule_id = own_id, title = coalesce(r ->> 'title', ''),
        guidance = coalesce(r ->> 'guidance', ''), rationale = coalesce(r ->> 'rationale', ''), category = kind,
        priority = rank, tech_stacks = stacks, contexts = older_list(r -> 'contexts'),
        keywords = older_list(r -> 'keywords'), facet_no = facet, prepared = 0
      where rule_no = number and (project_id, rule_id, title, guidance, rationale, category, priority, tech_stacks, contexts,
          keywords)
        is distinct from (project, own_id, coalesce(r ->> 'title', ''), coalesce(r ->> 'guidance', ''),
          coalesce(r ->> 'rationale', ''), kind, rank, stacks, older_list(r -> 'contexts'),
          older_list(r -> 'keywords'));
  end if;
  perform set_config('symmetra.carrying_over', '', true);
  insert into older_rules (older_key, rule_no) values (key, number)
    on conflict (older_key) do update set rule_no = excluded.rule_no;
end $$;

create or replace function symmetra.follow_older_rule() returns trigger
language plpgsql security definer set search_path = pg_catalog, symmetra as $$
declare ours jsonb;
begin
  if current_setting('symmetra.writing_back', true) = 'yes' then
    return null;
  end if;
  if tg_op = 'TRUNCATE' then
    perform set_config('symmetra.carrying_over', 'yes', true);
    delete from rules where rule_no in (select rule_no from older_rules);
    perform set_config('symmetra.carrying_over', '', true);
  elsif tg_op = 'DELETE' then
    perform set_config('symmetra.carrying_over', 'yes', true);
    delete from rules where rule_no in (select rule_no from older_rules where older_key = older_key(to_jsonb(old)));
    perform set_config('symmetra.carrying_over', '', true);
  elsif tg_op = 'INSERT' then
    perform carry_over(to_jsonb(new) - 'embedding');
  else
    if older_key(to_jsonb(old)) <> older_key(to_jsonb(new)) then
      update older_rules set older_key = older_key(to_jsonb(new)) where older_key = older_key(to_jsonb(old));
    end if;
    -- What was not changed there may be other here: its types may not have taken our value.
    select coalesce(jsonb_object_agg(f.key, f.value), '{}') into ours
      from older_rules as m join rules as r using (rule_no),
        jsonb_each(to_jsonb(r) - '{rule_no, project_id, rule_id}'::text[]) as f
      where m.older_key = older_key(to_jsonb(new))
        and to_jsonb(old) ? f.key and to_jsonb(old) -> f.key = to_jsonb(new) -> f.key;
    perform carry_over((to_jsonb(new) - 'embedding') || ours);
  end if;
  return null;
end $$;

-- Where a row of the older table stands, as a condition on its key: by its primary key where it has one.
create or replace function symmetra.older_place(key text) returns text
language sql stable set search_path = pg_catalog as $$
  select coalesce(
    (select format('r.id = cast(%L as %s)', key, format_type(a.atttypid, a.atttypmod)) from pg_attribute as a
      where a.attrelid = to_regclass('public.rules') and a.attname = 'id' and not a.attisdropped),
    format('symmetra.older_key(to_jsonb(r) - ''embedding'') = %L', key))
$$;

-- A rule that came from the older table was changed or deleted here: do the same there. A value that its types don't take,
-- such as a category that its enumeration lacks, is left as it is there.
create or replace function symmetra.write_back() returns trigger
language plpgsql security definer set search_path = pg_catalog, symmetra as $$
declare
  m record;
  patch jsonb := jsonb_build_object('title', new.title, 'guidance', new.guidance, 'rationale', new.rationale,
    'category', new.category, 'priority', new.priority, 'contexts', new.contexts, 'tech_stacks', new.tech_stacks,
    'keywords', new.keywords);
  field record;
begin
  if current_setting('symmetra.carrying_over', true) = 'yes' or to_regclass('public.rules') is null then
    return null;
  end if;
  for m in select older_key from older_rules where rule_no = old.rule_no loop
    perform set_config('symmetra.writing_back', 'yes', true);
    for field in select a.attname from pg_attribute as a where a.attrelid = 'public.rules'::regclass and a.attnum > 0
        and not a.attisdropped and a.attgenerated = '' and patch ? a.attname
        and (to_jsonb(old) -> a.attname) is distinct from (to_jsonb(new) -> a.attname)
    loop
      begin
        execute format('update public.rules as r set %1$I = (jsonb_populate_record(null::public.rules, $1)).%1$I where %2$s',
            field.attname, symmetra.older_place(m.older_key))
          using jsonb_build_object(field.attname, patch -> field.attname);
      exception when invalid_text_representation or check_violation or not_null_violation then
        null;
      end;
    end loop;
    perform set_config('symmetra.writing_back', '', true);
  end loop;
  return null;
end $$;
create or replace trigger write_back_change after update of title, guidance, rationale, category, priority, contexts,
    tech_stacks, keywords on symmetra.rules for each row
  when ((old.title, old.guidance, old.rationale, old.category, old.priority, old.contexts, old.tech_stacks, old.keywords)
    is distinct from
    (new.title, new.guidance, new.rationale, new.category, new.priority, new.contexts, new.tech_stacks, new.keywords))
  execute function symmetra.write_back();
create or replace function symmetra.write_back_removal() returns trigger
language plpgsql security definer set search_path = pg_catalog, symmetra as $$
declare m record;
begin
  if current_setting('symmetra.carrying_over', true) is distinct from 'yes' and to_regclass('public.rules') is not null then
    for m in select older_key from older_rules where rule_no = old.rule_no loop
      perform set_config('symmetra.writing_back', 'yes', true);
      execute 'delete from public.rules as r where ' || symmetra.older_place(m.older_key);
      perform set_config('symmetra.writing_back', '', true);
    end loop;
  end if;
  return old;
end $$;
create or replace trigger write_back_removal before delete on symmetra.rules
  for each row execute function symmetra.write_back_removal();

-- Adopt the older table where there is one: carry every row over, and follow it from now on. Harmless when repeated.
create or replace function symmetra.adopt_older_rules() returns jsonb
language plpgsql set search_path = pg_catalog, symmetra as $$
declare
  n bigint;
  followed boolean;
begin
  if (select count(*) from pg_attribute as a join pg_class as c on c.oid = a.attrelid
      where a.attrelid = to_regclass('public.rules') and c.relkind in ('r', 'p') and not a.attisdropped
        and a.attname in ('rule_id', 'title', 'guidance')) < 3 then
    return jsonb_build_object('adopted', null);
  end if;
  execute 'lock table public.rules in share row exclusive mode';
  followed := exists (select 1 from pg_trigger where tgrelid = to_regclass('public.rules') and tgname = 'symmetra_follow');
  execute 'create or replace trigger symmetra_follow after insert or update or delete on public.rules
    for each row execute function symmetra.follow_older_rule()';
  execute 'create or replace trigger symmetra_follow_all after truncate on public.rules
    for each statement execute function symmetra.follow_older_rule()';
  -- Rows that were followed all the time are in step; here they may hold what the older table's types don't take.
  execute 'select count(symmetra.carry_over(to_jsonb(r) - ''embedding'')) from (select * from public.rules as o
    where not $1 or symmetra.older_key(to_jsonb(o) - ''embedding'') not in (select older_key from symmetra.older_rules)
    order by 1) as r' using followed;
  execute 'select count(*) from public.rules' into n;
  execute 'delete from symmetra.rules where rule_no in (select rule_no from symmetra.older_rules as m where not exists (
    select 1 from public.rules as r where symmetra.older_key(to_jsonb(r) - ''embedding'') = m.older_key))';
  return jsonb_build_object('adopted', n);
end $$;
revoke all on function symmetra.older_key(jsonb), symmetra.older_list(jsonb), symmetra.carry_over(jsonb),
  symmetra.older_place(text),
  symmetra.follow_older_rule(), symmetra.write_back(), symmetra.write_back_removal(), symmetra.adopt_older_rules() from public, anon, authenticated;

select symmetra.adopt_older_rules();

-- How many rules came from the older table; adopts it where it is new since the last time. Null: there is none.
create or replace function symmetra.older_rule_count() returns bigint
language plpgsql set search_path = pg_catalog, symmetra as $$
begin
  if to_regclass('public.rules') is null then
    return null;
  end if;
  if not exists (select 1 from pg_trigger where tgrelid = 'public.rules'::regclass and tgname = 'symmetra_follow') then
    return (adopt_older_rules() ->> 'adopted')::bigint;
  end if;
  return (select count(*) from older_rules);
end $$;
revoke all on function symmetra.older_rule_count() from public, anon, authenticated;

-- The call that the older system's programs make, where no function answers it yet: in the space that is active.
do $do$
begin
  if exists (select 1 from pg_catalog.pg_proc as p where p.pronamespace = 'public'::regnamespace and p.proname = 'match_rules'
      and 'query_embedding' = any (p.proargnames) and not coalesce(obj_description(p.oid, 'pg_proc'), '') ~ '^symmetra-mcp') then
    return;
  end if;
  create or replace function public.match_rules(
    query_embedding vector, match_threshold double precision default 0, match_count int default 10)
  returns table (rule_id text, title text, guidance text, category text, priority text, contexts text[], tech_stacks text[],
    keywords text[], similarity double precision)
  language plpgsql stable set search_path = pg_catalog, symmetra, public, extensions as $$
  #variable_conflict use_column
  declare own symmetra.spaces;
  begin
    select s.* into own from spaces as s join state as t on t.active_space = s.space_no;
    if own.space_no is null then
      return;
    end if;
    if vector_dims(query_embedding) <> own.dimensions then
      raise exception using errcode = 'PT422', detail = own.space_id,
        message = format('expected %s dimensions, not %s', own.dimensions, vector_dims(query_embedding)),
        hint = 'embed the query with the provider that embedded the rules';
    end if;
    return query select r.rule_id, r.title, r.guidance, r.category, r.priority, r.contexts, r.tech_stacks, r.keywords,
        n.similarity
      from symmetra.nearest_rules(own, query_embedding, null, (select s.rule_count from state as s),
          least(greatest(match_count, 1), 200)) as found,
        unnest(found.rule_nos, found.similarities) as n (rule_no, similarity) join rules as r using (rule_no)
      where n.similarity > match_threshold order by n.similarity desc, r.rule_no limit least(greatest(match_count, 1), 200);
  end $$;
  comment on function public.match_rules(vector, double precision, int) is
    'symmetra-mcp: answers programs of the older Symmetra';
  revoke all on function public.match_rules(vector, double precision, int) from public, anon;
  grant execute on function public.match_rules(vector, double precision, int) to authenticated, service_role;
end $do$;
