import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    alias(libs.plugins.android.application)
    alias(libs.plugins.kotlin.compose)
}

android {
    namespace = "org.corelocker.demo.app"
    compileSdk = 36

    defaultConfig {
        applicationId = "org.corelocker.demo"
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "1.0.0"
        testInstrumentationRunner = "androidx.test.runner.AndroidJUnitRunner"
        ndk { abiFilters += listOf("arm64-v8a", "x86_64") }
    }

    flavorDimensions += "shop"
    productFlavors {
        create("play") { dimension = "shop" }
        create("emulator") {
            dimension = "shop"
            applicationIdSuffix = ".emulator"
        }
    }

    buildTypes {
        release {
            isMinifyEnabled = true
            isShrinkResources = true
            proguardFiles(getDefaultProguardFile("proguard-android-optimize.txt"), "proguard-rules.pro")
        }
    }

    buildFeatures { compose = true }

    // Models and bundles are read where they lie in the package.
    androidResources { noCompress += listOf("pte", "clkey") }

    // The library's own native code holds ExecuTorch; that of the stock package would be a second copy.
    // The C++ runtime comes with each of the libraries, and is the same.
    packaging {
        jniLibs {
            excludes += "**/libexecutorch.so"
            pickFirsts += "**/libc++_shared.so"
        }
    }

    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_17
        targetCompatibility = JavaVersion.VERSION_17
    }

    lint {
        abortOnError = true
        warningsAsErrors = true
        // A newer version of a tool must not break the build.
        disable += setOf("AndroidGradlePluginVersion", "GradleDependency", "NewerVersionAvailable", "OldTargetApi")
    }
}

kotlin {
    compilerOptions {
        jvmTarget = JvmTarget.JVM_17
        allWarningsAsErrors = true
    }
}

dependencies {
    implementation(project(":ui"))
    implementation("org.corelocker:executorch")
    implementation(libs.activity.compose)
    implementation(libs.androidx.annotation)
    implementation(libs.coroutines.android)
    "playImplementation"(libs.play.billing)
    androidTestImplementation(libs.androidx.test.runner)
    androidTestImplementation(libs.coroutines.test)
}

// The pipeline: a command of model/assets.py writes a folder of assets.
abstract class AssetsTask : DefaultTask() {
    @get:Inject
    abstract val processes: ExecOperations

    @get:Input
    abstract val python: Property<String>

    @get:Input
    abstract val command: ListProperty<String>

    @get:InputFiles
    @get:PathSensitive(PathSensitivity.RELATIVE)
    abstract val sources: ConfigurableFileCollection

    @get:InputDirectory
    @get:Optional
    @get:PathSensitive(PathSensitivity.RELATIVE)
    abstract val model: DirectoryProperty

    @get:Internal
    abstract val repository: DirectoryProperty

    @get:OutputDirectory
    abstract val assets: DirectoryProperty

    @TaskAction
    fun write() {
        val folders = listOf("--out" to assets, "--model" to model).filter { it.second.isPresent }
        processes.exec {
            workingDir(repository)
            commandLine(listOf(python.get(), "android_demo/model/assets.py") + command.get())
            for ((option, folder) in folders) args(option, folder.get().asFile.path)
        }
    }
}

val root = layout.projectDirectory.dir("../..")

fun assetsTask(
    name: String,
    does: String,
    command: List<String>,
    more: AssetsTask.() -> Unit,
) = tasks.register<AssetsTask>(name) {
    group = "corelocker"
    description = does
    python = providers.gradleProperty("corelocker.python")
    this.command = command
    repository = root
    sources.from(root.file("android_demo/model/assets.py"), root.file("tools/demo_model/app_assets.py"))
    more()
}

val lockModel =
    assetsTask("lockModel", "Exports the demo model to ExecuTorch and locks it.", listOf("model")) {
        sources.from(
            root.file("android_demo/model/corelocker.toml"),
            root.file("tools/demo_model/fashion_mobilenet.py"),
            root.file("tools/demo_model/data/fashion_mobilenet.safetensors"),
        )
    }

val sampleImages =
    assetsTask("sampleImages", "Writes labelled test images.", listOf("images")) {
        sources.from(root.file("tools/demo_model/data/fashion_test_2000.npz"))
    }

val developmentConfig =
    assetsTask("developmentConfig", "Sets up a service for emulators, and writes what the app trusts.", listOf("development")) {
        model = lockModel.flatMap { it.assets }
        // A grant can be shown for a week: each build issues new ones.
        outputs.upToDateWhen { false }
    }

// Of the publisher's own service: -Pcorelocker.service=https://unlock.example.com -Pcorelocker.serviceConfig=service.toml
val service = providers.gradleProperty("corelocker.service")
val serviceConfig = providers.gradleProperty("corelocker.serviceConfig")
val productionConfig =
    assetsTask(
        "productionConfig",
        "Writes what the app trusts of the publisher's service.",
        listOf("production") +
            service.map { listOf("--service", it) }.getOrElse(emptyList()) +
            serviceConfig.map { listOf("--service-config", it) }.getOrElse(emptyList()),
    ) {
        model = lockModel.flatMap { it.assets }
        sources.from(serviceConfig.map { listOf(root.file(it)) }.orElse(emptyList()))
    }

androidComponents {
    // Development keys are in debug builds of the library alone.
    beforeVariants(selector().withFlavor("shop" to "emulator").withBuildType("release")) { it.enable = false }
    onVariants { variant ->
        val config = if (variant.flavorName == "emulator") developmentConfig else productionConfig
        for (task in listOf(lockModel, sampleImages, config)) {
            variant.sources.assets?.addGeneratedSourceDirectory(task, AssetsTask::assets)
        }
    }
}
