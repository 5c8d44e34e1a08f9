"""Word lists: what headings call a category, and what extensions and names say about the technology.

A technology's entry is `name` or `name=stack,stack`. Names are matched whole; short ones that are also English words
(`go`, `rust`, `c`) are in `FILE_NAMES` alone, where a file's name is all there is to read.
"""

from __future__ import annotations

CATEGORIES: dict[str, str] = {
    "security": """
        security secure auth authentication authorization secrets credentials vulnerabilities xss csrf injection
        encryption privacy permissions 安全 セキュリティ 보안
    """,
    "testing": """
        test tests testing tdd bdd fixtures mocks mocking coverage pytest jest vitest e2e qa assertions 测试 テスト
        테스트
    """,
    "performance": """
        performance optimization optimisation optimizing caching cache speed memory profiling latency scalability lazy
        性能 优化 パフォーマンス 성능
    """,
    "error-handling": """
        error errors exception exceptions logging resilience retries 错误处理 异常 エラー 예외
    """,
    "ai-ml": """
        llm llms ml embedding embeddings prompt-engineering model-training machine-learning deep-learning rag neural
        dataset datasets
    """,
    "ux": """
        ux ui accessibility a11y aria usability responsive design-system styling css animation animations layout i18n
        localization internationalization 界面 アクセシビリティ
    """,
    "devops": """
        devops deployment deploy deploying ci cd ci/cd docker container containers kubernetes infrastructure release
        releases releasing monitoring observability pipeline pipelines terraform 部署 デプロイ 배포
    """,
    "data": """
        database databases sql schema schemas query queries migration migrations orm postgres data-model models data
        persistence 数据库 データベース
    """,
    "git": """
        git commit commits branch branches branching merge pr prs pull-request pull-requests changelog 提交 コミット
    """,
    "documentation": """
        documentation docs comments commenting docstrings readme jsdoc 文档 注释 ドキュメント
    """,
    "style": """
        style naming formatting format conventions convention lint linting imports import typing types type syntax
        readability clean-code typography whitespace indentation idioms 命名 规范 风格 スタイル 命名規則
    """,
    "architecture": """
        architecture architectural structure modules modularity patterns pattern design principles components component
        layers dependency dependencies organization api apis routing state services interfaces 架构 设计 アーキテクチャ
        설계
    """,
    "workflow": """
        workflow workflows process task tasks planning review reviews checklist steps 流程 手順
    """,
}
"""Words of headings by the category they name; the earlier category wins."""

EXTENSIONS = """
ts,mts,cts=typescript tsx=typescript,react js,mjs,cjs=javascript jsx=javascript,react py,pyi=python
ipynb=python,jupyter rs=rust go=go java=java kt,kts=kotlin swift=swift rb,erb=ruby php=php cs,csproj=csharp
razor=csharp,blazor fs=fsharp vb=vbnet c=c cpp,cc,cxx,hpp=cpp m=objective-c scala=scala ex,exs=elixir
heex=elixir,phoenix erl=erlang clj,cljs=clojure dart=dart lua=lua r=r jl=julia hs=haskell zig=zig nim=nim
vue=vue svelte=svelte astro=astro sol=solidity tf,tfvars=terraform bicep=bicep sql=sql graphql,gql=graphql
proto=protobuf css=css scss,sass=scss less=less html=html sh,bash,zsh=bash ps1,psm1,psd1=powershell
gradle=gradle dockerfile=docker prisma=prisma
"""
"""Endings of files, and what they are written in."""

NAMES = """
rust swift spring=spring,java
typescript javascript python golang=go kotlin ruby php csharp c#=csharp c++=cpp cpp fsharp f#=fsharp scala
elixir erlang clojure haskell dart flutter=flutter,dart solidity terraform bicep graphql react=react
react.js=react reactjs=react react-native=react-native,react next.js=nextjs,react nextjs=nextjs,react vue
vue.js=vue vuejs=vue nuxt=nuxt,vue nuxt.js=nuxt,vue svelte sveltekit=svelte angular astro solidjs remix qwik
htmx tailwind tailwindcss=tailwind shadcn django fastapi=fastapi,python flask pydantic=pydantic,python
pandas=pandas,python numpy=numpy,python pytorch=pytorch,python tensorflow=tensorflow
scikit-learn=scikit-learn,python langchain pytest=pytest,python sqlalchemy=sqlalchemy,python anyio=anyio,python
asyncio=python node.js=nodejs nodejs express.js=express nestjs=nestjs,typescript nest.js=nestjs,typescript deno
bun.sh=bun electron tauri rails=rails,ruby laravel=laravel,php symfony=symfony,php wordpress=wordpress,php
typo3=typo3,php drupal=drupal,php spring-boot=spring,java springboot=spring,java quarkus=quarkus,java
maven=maven,java gradle junit=junit,java jetpack-compose=android,kotlin android swiftui=swiftui,swift
swiftdata=swift xcode=swift ios=ios asp.net=aspnet,csharp blazor=blazor,csharp .net=dotnet dotnet unity
winui3=winui,csharp winui=winui,csharp kubernetes k8s=kubernetes docker ansible helm aws azure gcp supabase
firebase postgres postgresql=postgres mysql sqlite mongodb redis prisma=prisma drizzle peewee=peewee,python
elasticsearch kafka rabbitmq cypress playwright jest vitest detox=detox,react-native storybook webpack vite
esbuild rollup redux zustand pinia=pinia,vue zod=zod,typescript trpc=trpc,typescript expo=expo,react-native
hardhat=hardhat,solidity foundry=foundry,solidity solana ethers.js=ethers web3.js=web3 actix-web=actix,rust
actix=actix,rust tokio=tokio,rust axum=axum,rust numba=numba,python tinygrad=tinygrad,python
pyramid=pyramid,python medusa=medusa,typescript powershell pester=pester,powershell bash markdown mkdocs
webassembly wasm=webassembly ros2=ros ros=ros stm32=c,embedded arkts=harmonyos,arkts harmonyos joyride=clojure
langgraph=langgraph convex netlify vercel cloudflare insomnia java=java formengine=react semiotic=react
dataverse=dataverse
"""
"""Names that mean a technology wherever they stand."""

FILE_NAMES = """
rust=rust go=go swift=swift spring=spring,java express=express node=nodejs next=nextjs,react unity=unity c=c r=r
git=git lua=lua zig=zig
"""
"""Names that mean a technology in the name of a rule file."""

CAPITALIZED = """
rust swift spring
astro bash convex detox expo foundry helm insomnia pyramid react remix ros semiotic unity
"""
"""Names that are English words too: in prose they count only with a capital letter."""

PLAIN_STEMS = """
agents claude clinerules copilot-instructions cursorrules default gemini general global index main overview
project readme roorules rules symmetra-rules windsurfrules
"""
"""Names of files that say nothing about what is in them."""

NO_TITLES = """
always content critical description important may must name never note rule should text title warning
"""
"""Bold words at the start of a rule that are not its title."""
