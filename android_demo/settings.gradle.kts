pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode = RepositoriesMode.FAIL_ON_PROJECT_REPOS
    repositories {
        google()
        mavenCentral()
    }
    versionCatalogs {
        create("libs") { from(files("../sdk/android/gradle/libs.versions.toml")) }
    }
}

rootProject.name = "corelocker-demo"

// The library of this repository, in place of the one that is published.
includeBuild("../sdk/android") {
    dependencySubstitution {
        substitute(module("org.corelocker:core")).using(project(":core"))
        substitute(module("org.corelocker:android")).using(project(":android"))
        substitute(module("org.corelocker:executorch")).using(project(":executorch"))
    }
}

include(":ui", ":app")
